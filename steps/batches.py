"""Cutting a sequence into the requests of a service that limits their items and bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def batches(items: Iterable[T], bytes_of: Callable[[T], int], *, most: int, most_bytes: int) -> Iterator[list[T]]:
    """The items in order, as few batches as the limits allow; an item above `most_bytes` is one of its own."""
    batch: list[T] = []
    room_bytes = most_bytes
    for item in items:
        size = bytes_of(item)
        if batch and (len(batch) == most or size > room_bytes):
            yield batch
            batch, room_bytes = [], most_bytes
        batch.append(item)
        room_bytes -= size
    if batch:
        yield batch
