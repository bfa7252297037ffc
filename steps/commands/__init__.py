"""The step programs as commands."""
