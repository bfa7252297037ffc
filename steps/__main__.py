"""`python -m steps` is `reelscan`."""

from steps.cli import main

main()
