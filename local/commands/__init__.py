"""`reelscan run`, `up` and `send`: their flags, and what they print."""
