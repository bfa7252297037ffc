"""What triggers runs and accounts for them: Argo Events' objects, and the programs that operate it."""
