"""What detecting costs, against what the machine could do: `python -m bench` or `make bench`. See docs/bench.md."""
