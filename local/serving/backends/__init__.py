"""The models that the server can serve, behind one small interface.

A backend is deterministic: what it answers for a frame does not depend on the other frames of the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from steps.errors import UsageError
from steps.profile import FILE_NAME

Arrays = dict[str, npt.NDArray[Any]]

BUILT_IN = ("hog", "null", "coded")
"""Backends that need no model file."""

_ALLOWED = f"--model takes a .tflite file, the folder of a SavedModel, or one of {', '.join(BUILT_IN)}"
_PROFILES = Path(__file__).resolve().parents[1] / "profiles"
_SAMPLES = Path(__file__).resolve().parents[3] / "samples"


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        dtype: Type of the elements.
        shape: Size of each dimension, the batch first; -1 is free.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, by tensor name."""

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]


class Backend(Protocol):
    """A loaded model."""

    @property
    def description(self) -> str:
        """What is served, for people: the engine, then the file if there is one."""

    @property
    def signature(self) -> Signature:
        """Inputs and outputs. Requests are checked against it before `predict` is called."""

    @property
    def max_batch(self) -> int | None:
        """Largest batch, or None for any."""

    def predict(self, inputs: Arrays) -> Arrays:
        """All outputs for a batch. Called from several threads at once.

        Raises:
            ServingError: the batch cannot be worked through; its status answers the request.
        """

    def close(self) -> None:
        """Ends the threads of the backend. No `predict` runs any more."""


Loader = Callable[[], Backend]


def default_model() -> Path:
    """The model in `samples/` of the checkout.

    Raises:
        UsageError: there is none, as in an installed package.
    """
    models = sorted(_SAMPLES.glob("*.tflite"))
    if not models:
        raise UsageError(f"no sample model (*.tflite) in {_SAMPLES}: name a model with --model")
    return models[0]


def find_profile(model: str | None) -> Path | None:
    """The profile of a model: of the package for a built-in one, else the `reelscan.json` beside the model, if any.

    Raises:
        UsageError: None, the sample model, is not there.
    """
    if model is not None and not Path(model).exists():
        built_in = _PROFILES / f"{model}.json"
        return built_in if built_in.is_file() else None
    path = default_model() if model is None else Path(model)
    folders = (path, path.parent) if path.is_dir() else (path.parent,)
    files = (folder.absolute() / FILE_NAME for folder in folders)
    return next((file for file in files if file.is_file()), None)


def find_loader(model: str, threads: int) -> Loader:
    """What loads the named model, when called.

    Cheap checks are made here. Only TensorFlow is imported here already: it has to come before the stubs of
    `steps.stubs`, which then use its own modules.

    Args:
        model: `hog`, `null`, `coded`, a `.tflite` file, or the folder of a SavedModel.
        threads: How many frames are worked on at once.

    Raises:
        UsageError: no such file, not a kind of model that can be served, or TensorFlow is needed and not installed.
    """
    if model in BUILT_IN:
        return _built_in(model, threads)
    path = Path(model)
    if not path.exists():
        raise UsageError(f"no model at {path}: {_ALLOWED}")
    if path.is_dir():
        from local.serving.backends.savedmodel import SavedModelBackend, import_tensorflow, version_folder

        folder = version_folder(path)
        tensorflow = import_tensorflow(folder, threads)
        return lambda: SavedModelBackend(folder, tensorflow)
    if path.suffix == ".tflite":
        return lambda: _litert(path, threads)
    raise UsageError(f"{path} is no model that can be served: {_ALLOWED}")


def _built_in(name: str, threads: int) -> Loader:
    if name == "hog":
        from local.serving.backends.hog import HogBackend

        return lambda: HogBackend(threads)
    if name == "null":
        from local.serving.backends.null import NullBackend

        return NullBackend
    from local.serving.backends.coded import CodedBackend

    return CodedBackend


def _litert(path: Path, threads: int) -> Backend:
    from local.serving.backends.litert import LiteRTBackend

    return LiteRTBackend(path, threads)
