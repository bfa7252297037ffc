"""Model profiles: what no signature tells about a detection model, as `reelscan.json` or built in."""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    ValidationError,
    model_validator,
)

from steps.errors import UsageError

FILE_NAME = "reelscan.json"
DEFAULT_PROFILE = "tensorflow_object_detection_api"
FREE_SIZE_PIXELS = 640
"""Width and height sent to a model whose signature leaves them free when its profile does too."""

_BUILT_IN_FOLDER = Path(__file__).parent / "profiles"
_MAX_FILE_BYTES = 1 << 20

BoxFormat = Literal[
    "ymin_xmin_ymax_xmax_normalized",
    "xmin_ymin_xmax_ymax_normalized",
    "xmin_ymin_width_height_normalized",
    "xcenter_ycenter_width_height_normalized",
    "ymin_xmin_ymax_xmax_pixels",
    "xmin_ymin_xmax_ymax_pixels",
    "xmin_ymin_width_height_pixels",
    "xcenter_ycenter_width_height_pixels",
]
"""Order of a box's four numbers, and their unit: 0 to 1 or pixels, of the model's input with its padding."""

Name = Annotated[str, StringConstraints(min_length=1, max_length=256)]
Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_LabelList = Annotated[list[Label], Field(max_length=100_000), Tag("list")]
_LabelMap = Annotated[dict[int, Label], Field(max_length=100_000), Tag("map")]
Labels = Annotated[_LabelList | _LabelMap, Discriminator(lambda labels: "list" if isinstance(labels, list) else "map")]


class Placement(NamedTuple):
    """Where the picture lies in the model's input, in whole pixels of the input."""

    left: int
    top: int
    width: int
    height: int


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class InputProfile(_Section):
    """The tensor that takes the pictures, `[batch, height, width, 3]`, uint8 or float32."""

    name: Name = Field(description="the input's name in the signature")
    width: int | None = Field(None, ge=1, le=8192, description="pixels; absent: the signature's, or 640 if free")
    height: int | None = Field(None, ge=1, le=8192, description="pixels; absent: the signature's, or 640 if free")
    resize: Literal["stretch", "letterbox"] = Field(
        "stretch", description="letterbox keeps the aspect ratio, centred on black"
    )
    color: Literal["rgb", "bgr"] = Field("rgb", description="order of the channels")
    scale: float = Field(1.0, description="float32 only: the value sent is value * scale + offset, value 0 to 255")
    offset: float = Field(0.0, description="float32 only: see scale")

    @model_validator(mode="after")
    def _check_together(self) -> InputProfile:
        if (self.width is None) != (self.height is None):
            raise ValueError("width and height belong together: set both or neither")
        if self.resize == "letterbox" and self.width is None:
            raise ValueError("resize 'letterbox' needs width and height")
        if self.scale == 0:
            raise ValueError("scale 0 would send the same value for every pixel")
        return self

    def placement(self, picture_width: int, picture_height: int, width: int, height: int) -> Placement:
        """Where a displayed picture lies in an input of width x height: the whole of it, or the letterbox."""
        if self.resize == "stretch":
            return Placement(0, 0, width, height)
        if picture_width * height >= width * picture_height:
            scaled_width = width
            scaled_height = max(1, (2 * picture_height * width + picture_width) // (2 * picture_width))
        else:
            scaled_width = max(1, (2 * picture_width * height + picture_height) // (2 * picture_height))
            scaled_height = height
        return Placement((width - scaled_width) // 2, (height - scaled_height) // 2, scaled_width, scaled_height)


class OutputsProfile(_Section):
    """Names of the outputs in the signature. N is the model's greatest number of detections."""

    boxes: Name = Field(description="[batch, N, 4]")
    scores: Name = Field(description="[batch, N]")
    classes: Name = Field(description="[batch, N], whole numbers of any type")
    count: Name | None = Field(None, description="[batch]: how many of the N count; absent: all of them")


class ModelProfile(_Section):
    """A validated profile. `class_id` in results is the model's own class number plus `class_id_offset`."""

    input: InputProfile
    outputs: OutputsProfile
    box_format: BoxFormat
    class_id_offset: int = Field(0, ge=-1_000_000, le=1_000_000)
    labels: Labels = Field(
        default_factory=dict, description="class_id to label; or a list, which begins at class_id_offset"
    )

    @model_validator(mode="after")
    def _check_together(self) -> ModelProfile:
        if self.box_format.endswith("_pixels") and self.input.width is None:
            raise ValueError(f"box_format {self.box_format!r} needs input.width and input.height")
        return self

    @cached_property
    def label_of_class_id(self) -> dict[int, str]:
        """Labels by `class_id`."""
        if isinstance(self.labels, list):
            return dict(enumerate(self.labels, start=self.class_id_offset))
        return self.labels

    def digest(self) -> str:
        """SHA-256, in hex, of what the profile means: the same for any spelling of the same profile."""
        meaning = self.model_dump(mode="json")
        meaning["labels"] = {str(class_id): label for class_id, label in self.label_of_class_id.items()}
        canonical = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(canonical.encode()).hexdigest()


def built_in_profiles() -> list[str]:
    """Names of the built-in profiles."""
    return sorted(path.stem for path in _BUILT_IN_FOLDER.glob("*.json"))


def load_profile(option: str | None = None, model_path: str | Path | None = None) -> ModelProfile:
    """The profile of a model: the option's, else `reelscan.json` beside the model, else the built-in default.

    Args:
        option: Path of a profile, or the name of a built-in one.
        model_path: The model's file or folder, if known. A folder (SavedModel) may hold the profile itself.

    Raises:
        UsageError: the file cannot be read or is no valid profile; the first wrong field is named.
    """
    if option:
        if option in built_in_profiles():
            return _read_profile(_BUILT_IN_FOLDER / f"{option}.json")
        if not Path(option).exists():
            raise UsageError(
                f"model profile {option!r} is no file and no built-in profile; "
                f"built in are {', '.join(built_in_profiles())}"
            )
        return _read_profile(Path(option))
    if model_path is not None:
        model = Path(model_path)
        for folder in (model, model.parent) if model.is_dir() else (model.parent,):
            if (folder / FILE_NAME).is_file():
                return _read_profile(folder / FILE_NAME)
    return _read_profile(_BUILT_IN_FOLDER / f"{DEFAULT_PROFILE}.json")


def _read_profile(path: Path) -> ModelProfile:
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(f"model profile {path}: {error.strerror}; name a readable {FILE_NAME}") from None
    if len(text) > _MAX_FILE_BYTES:
        raise UsageError(f"model profile {path}: larger than {_MAX_FILE_BYTES} bytes; is it a {FILE_NAME}?")
    try:
        return ModelProfile.model_validate_json(text)
    except ValidationError as error:
        raise UsageError(f"model profile {path}: {_describe(error)}") from None


def _describe(error: ValidationError) -> str:
    """The first problem of a validation: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    location = [str(part) for part in first["loc"]]
    sections: dict[str, type[BaseModel]] = {"input": InputProfile, "outputs": OutputsProfile}
    section = sections.get(location[0], ModelProfile) if len(location) > 1 else ModelProfile
    # The tag of the kind of labels stands in the location too, and says nothing to a user.
    where = ".".join(location[:1] + location[2:] if location[:1] == ["labels"] else location) or "the file"
    if first["type"] == "extra_forbidden":
        return f"{where[:80]!r} is not a known field; known are {', '.join(section.model_fields)}"
    if first["type"] == "missing":
        return f"{where!r} is missing"
    if first["type"] == "value_error":
        prefix = f"{where}: " if first["loc"] else ""
        return prefix + str(first["msg"]).removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return f"no JSON: {first['msg'].removeprefix('Invalid JSON: ')}"
    shown = repr(first["input"])
    return f"{where}: {shown if len(shown) <= 80 else shown[:77] + '...'}: {first['msg']}"
