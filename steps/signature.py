"""The signature of a served model, checked against the model profile."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from steps.errors import ModelMismatchError
from steps.profile import FREE_SIZE_PIXELS, ModelProfile
from steps.stubs import DT_FLOAT, DT_INT32, DT_INT64, DT_UINT8, type_name

SIGNATURE_NAME = "serving_default"

_INPUT_TYPES: dict[int, np.dtype[Any]] = {DT_UINT8: np.dtype(np.uint8), DT_FLOAT: np.dtype(np.float32)}


@dataclass(frozen=True, slots=True)
class InputSpec:
    """What a model takes and gives, settled between its signature and its profile."""

    name: str
    """Name of the input."""
    width: int
    """Of the pictures sent, in pixels."""
    height: int
    """Likewise."""
    dtype: np.dtype[Any]
    """uint8 or float32."""
    batch_size: int | None
    """Frames in every request; None: the model takes any number."""
    outputs: tuple[str, ...]
    """Names of the outputs to ask for: boxes, scores, classes and, where the profile has one, the count."""
    is_free_size: bool
    """Whether the signature leaves the size free."""


def check_signature(signature: Any, profile: ModelProfile, model: str) -> InputSpec:
    """The `InputSpec` of a model.

    Args:
        signature: The SignatureDef that the server states.
        profile: What the deployment says of the model.
        model: The model in words, for messages.

    Raises:
        ModelMismatchError: the two do not fit, or Reelscan cannot feed such a model.
    """

    def misfit(said: str, change: str) -> ModelMismatchError:
        return ModelMismatchError(f"{model}: {said}; {change}")

    name = profile.input.name
    if name not in signature.inputs:
        raise misfit(
            f"the profile's input.name is {name!r}, the server's inputs are {_listed(signature.inputs)}",
            "name the server's input in the model profile (reelscan.json)",
        )
    if len(signature.inputs) > 1:
        raise misfit(
            f"it has the inputs {_listed(signature.inputs)}, but only {name!r} would be fed",
            "export the model with the picture as its only input",
        )
    info = signature.inputs[name]
    dtype = _INPUT_TYPES.get(info.dtype)
    if dtype is None:
        raise misfit(
            f"input {name!r} takes {type_name(info.dtype)}, but pictures are sent as DT_UINT8 or DT_FLOAT",
            "export the model with an image tensor as its input",
        )
    if dtype == np.uint8 and (profile.input.scale, profile.input.offset) != (1, 0):
        raise misfit(
            f"the profile's input.scale is {profile.input.scale:g} and input.offset "
            f"{profile.input.offset:g}, but input {name!r} takes DT_UINT8, which is sent as it is",
            "take scale and offset out of the model profile",
        )
    batch, height, width = _input_shape(info, name, misfit)
    _check_outputs(signature, profile, misfit)
    chosen = profile.outputs
    return InputSpec(
        name=name,
        width=_size("width", width, profile.input.width, misfit),
        height=_size("height", height, profile.input.height, misfit),
        dtype=dtype,
        batch_size=batch,
        outputs=tuple(
            output for output in (chosen.boxes, chosen.scores, chosen.classes, chosen.count) if output is not None
        ),
        is_free_size=width is None or height is None,
    )


def _input_shape(info: Any, name: str, misfit: Any) -> tuple[int | None, int | None, int | None]:
    """Batch, height and width of the input; None is free."""
    shape = [dim.size for dim in info.tensor_shape.dim]
    if info.tensor_shape.unknown_rank or len(shape) != 4:
        raise misfit(
            f"input {name!r} has {'unknown rank' if info.tensor_shape.unknown_rank else f'shape {shape}'}, "
            "but pictures are sent as [batch, height, width, 3]",
            "export the model with such an input",
        )
    if shape[3] not in (3, -1):
        raise misfit(
            f"input {name!r} has shape {shape}, but pictures are sent as [batch, height, width, 3]",
            "export the model with the three channels last",
        )
    if 0 in shape:
        raise misfit(f"input {name!r} has shape {shape}", "export the model with a shape that holds pictures")
    batch, height, width = (size if size > 0 else None for size in shape[:3])
    return batch, height, width


def _size(side: str, served: int | None, wanted: int | None, misfit: Any) -> int:
    """Width or height of the pictures to send, in pixels."""
    if served is not None and wanted is not None and served != wanted:
        raise misfit(
            f"the profile's input.{side} is {wanted}, the server's {served}",
            f"set input.{side} to {served} in the model profile (reelscan.json), or serve another model",
        )
    return served or wanted or FREE_SIZE_PIXELS


def _check_outputs(signature: Any, profile: ModelProfile, misfit: Any) -> None:
    """Every output of the profile is there, with numbers of a kind and a rank that can be read."""
    numbers = (DT_FLOAT, DT_UINT8, DT_INT32, DT_INT64)
    wanted = (
        ("boxes", profile.outputs.boxes, (DT_FLOAT,), 3),
        ("scores", profile.outputs.scores, (DT_FLOAT,), 2),
        ("classes", profile.outputs.classes, numbers, 2),
        ("count", profile.outputs.count, numbers, None),
    )
    for role, name, types, rank in wanted:
        if name is None:
            continue
        if name not in signature.outputs:
            raise misfit(
                f"the profile's outputs.{role} is {name!r}, the server's outputs are {_listed(signature.outputs)}",
                "name the server's output in the model profile (reelscan.json)",
            )
        info = signature.outputs[name]
        if info.dtype not in types:
            raise misfit(
                f"the profile's outputs.{role} is {name!r}, which the server gives as "
                f"{type_name(info.dtype)}, not {' or '.join(type_name(number) for number in types)}",
                f"name another output as outputs.{role} in the model profile",
            )
        shape = [dim.size for dim in info.tensor_shape.dim]
        if info.tensor_shape.unknown_rank or rank is None:
            continue
        # Some exports state no shape for their outputs ([]); each answer is checked anyway.
        if shape and (len(shape) != rank or (role == "boxes" and shape[2] not in (4, -1))):
            raise misfit(
                f"the profile's outputs.{role} is {name!r}, which the server gives as {shape}, "
                f"not {'[batch, N, 4]' if role == 'boxes' else '[batch, N]'}",
                f"name another output as outputs.{role} in the model profile",
            )


def _listed(names: Any) -> str:
    """Names in order, the first ten of them."""
    names = sorted(names)
    return ", ".join(repr(name) for name in names[:10]) + (", ..." if len(names) > 10 else "") or "none"
