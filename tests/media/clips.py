"""The catalogue of clips: every shape of video that has to come out exact, by name."""

from __future__ import annotations

from pathlib import Path

from .codec_clips import CODEC_SHAPES
from .container_clips import CONTAINER_SHAPES
from .damaged_clips import DAMAGED_SHAPES
from .library import Clip, ClipLibrary, Shape

SHAPES: dict[str, Shape] = {**CODEC_SHAPES, **CONTAINER_SHAPES, **DAMAGED_SHAPES}

CLIP_NAMES: tuple[str, ...] = tuple(SHAPES)
WHOLE_CLIP_NAMES: tuple[str, ...] = tuple(name for name, shape in SHAPES.items() if not shape.fragile)
"""Those of which every frame can be decoded."""
BROKEN_CLIP_NAMES: tuple[str, ...] = tuple(name for name, shape in SHAPES.items() if shape.fragile)
"""Those of which some frames can't."""

__all__ = ["BROKEN_CLIP_NAMES", "CLIP_NAMES", "SHAPES", "WHOLE_CLIP_NAMES", "Clip", "ClipLibrary", "clip_library"]


def clip_library(folder: Path) -> ClipLibrary:
    """The clips of the catalogue, kept in `folder`."""
    return ClipLibrary(folder, SHAPES)
