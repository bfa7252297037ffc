"""What `make preflight` finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What was found.

    Attributes:
        words: what is wrong and what to change.
        stops: whether the cluster cannot be made so; else it is only said.
    """

    words: str
    stops: bool = True
