"""Files made when first asked for, kept in a folder that several test processes share."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path

from .reference import ReferenceFrame, reference_frames


class FileStore:
    """A folder of files by name. One process makes a file while the others wait for its lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, name: str, make: Callable[[Path], object]) -> Path:
        """The file `name`, made by `make(path)` beside its place and then renamed, so that it is whole or absent."""
        path = self._folder / name
        if not path.exists():
            with (self._folder / f".{name}.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # let go by the system if its holder dies
                if not path.exists():
                    unfinished = self._folder / f"{os.getpid()}.tmp.{name}"
                    make(unfinished)
                    unfinished.rename(path)
        return path


Make = Callable[["ClipLibrary", Path], None]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a clip is made and what it shows.

    `numbers` are the numbers in the displayed pictures, in order. Of those in `fragile` some may be missing
    or unreadable, because the file is broken there; all others are whole. `times` are the seconds of the
    displayed frames from the first one, by default 1 / `fps` apart.
    """

    make: Make
    container: str
    codec: str
    numbers: Sequence[int]
    fps: Fraction
    notes: str
    fragile: range = range(0)
    times: Sequence[Fraction] | None = None


@dataclass(frozen=True)
class Clip:
    """A clip that lies on the disk. `container` and `codec` are FFmpeg's names, `notes` say what makes it special."""

    name: str
    path: Path
    container: str
    codec: str
    numbers: tuple[int, ...]
    fps: Fraction
    times: tuple[Fraction, ...]
    fragile: range
    notes: str

    @cached_property
    def reference(self) -> list[ReferenceFrame]:
        """Its displayed frames by a plain decode from start to end."""
        return reference_frames(self.path)

    def number_at(self, seconds: Fraction) -> int:
        """The number that the unbroken video shows in the frame nearest to a time; of two the first."""
        return min(zip(self.times, self.numbers, strict=True), key=lambda shown: abs(shown[0] - seconds))[1]


class ClipLibrary:
    """Clips by name."""

    def __init__(self, folder: Path, shapes: Mapping[str, Shape]) -> None:
        self._store = FileStore(folder)
        self._shapes = shapes
        self._clips: dict[str, Clip] = {}

    def __getitem__(self, name: str) -> Clip:
        if name not in self._clips:
            shape = self._shapes[name]
            self._clips[name] = Clip(
                name=name,
                path=self.path(name),
                container=shape.container,
                codec=shape.codec,
                numbers=tuple(shape.numbers),
                fps=shape.fps,
                times=tuple(shape.times or (index / shape.fps for index in range(len(shape.numbers)))),
                fragile=shape.fragile,
                notes=shape.notes,
            )
        return self._clips[name]

    def path(self, name: str) -> Path:
        shape = self._shapes[name]
        return self._store.get(name, lambda path: shape.make(self, path))
