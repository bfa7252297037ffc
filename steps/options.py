"""The options of a task: one table for flags, message fields, workflow parameters and `REELSCAN_*` variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from steps.bounds import allowed, allowed_values
from steps.errors import InvalidTaskError, UsageError
from steps.settings import MODEL_NAME_ALLOWED, MODEL_NAME_PATTERN, variable_of

OUTPUTS: tuple[str, ...] = ("frames", "parquet", "coco", "rekognition")
"""The outputs that can be written, and the default."""
NOT_YET_WRITTEN_OUTPUTS: tuple[str, ...] = ("report", "preview")

HIGHEST_PRIORITY = 9
"""Of a task; the reconciler's is one more."""

# The flags of the options, where they are not the option's name.
_FLAGS = {"start_seconds": "--start", "end_seconds": "--end"}

Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]


def flag_of(name: str) -> str:
    """The flag of an option."""
    return _FLAGS.get(name, "--" + name.replace("_", "-"))


_NO_RANGE = "no_range"


def _check_output(name: str) -> str:
    if name in NOT_YET_WRITTEN_OUTPUTS:
        raise ValueError("cannot be written yet")
    if name not in OUTPUTS:
        raise ValueError("is not known")
    return name


class Options(BaseModel):
    """What a task may ask for. Times are seconds from the first displayed frame; the range is half-open.

    Validation is strict: text is not taken for a number, nor a number for text (flags and variables are
    converted by `Options.from_text` first), and unknown fields are errors.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    fps: float = Field(default=5, ge=0, le=1000, description="analysed frames per second of video; 0 is every frame")
    start_seconds: float = Field(default=0, ge=0, le=1e7, description="start of the analysed range")
    end_seconds: float | None = Field(default=None, gt=0, le=1e7, description="end of the analysed range, exclusive")
    max_frames: int | None = Field(default=None, ge=1, le=10**9, description="stop after so many analysed frames")
    min_score: float = Field(default=0.5, ge=0, le=1, description="lowest score kept")
    labels: list[Label] | None = Field(
        default=None,
        min_length=1,
        max_length=1000,
        description="only these labels",
        json_schema_extra=allowed("a list of 1 to 1000 labels, each of 1 to 128 characters"),
    )
    model: str | None = Field(
        default=None,
        pattern=MODEL_NAME_PATTERN,
        description="model name at the server",
        json_schema_extra=MODEL_NAME_ALLOWED,
    )
    chunk_seconds: Annotated[float, Field(gt=0, le=1e7)] | Literal["auto"] = Field(
        default="auto",
        description="aim for chunks of so much video, cut at keyframes (above 0, at most 1e7), or auto",
        json_schema_extra=allowed("a number above 0 and of at most 10000000, or auto"),
    )
    outputs: list[Annotated[str, AfterValidator(_check_output)]] = Field(
        default=list(OUTPUTS),
        min_length=1,
        max_length=20,
        description="result files to write",
        json_schema_extra=allowed(f"a list of {', '.join(OUTPUTS)}"),
    )
    force: bool = Field(default=False, description="compute again even if results exist")
    priority: int = Field(default=0, ge=0, le=HIGHEST_PRIORITY, description="runs with a higher one start first")

    @model_validator(mode="after")
    def _check_together(self) -> Options:
        if self.end_seconds is not None and self.end_seconds <= self.start_seconds:
            times = {"start": self.start_seconds, "end": self.end_seconds}
            raise PydanticCustomError(_NO_RANGE, "end_seconds is not after start_seconds", times)
        return self

    @property
    def fps_fraction(self) -> Fraction:
        """`fps` as the decimal number that was written: 29.97 is 2997/100, not its nearest binary fraction."""
        return Fraction(repr(self.fps))

    @property
    def start_fraction(self) -> Fraction:
        """`start_seconds` as the decimal number that was written."""
        return Fraction(repr(self.start_seconds))

    @property
    def end_fraction(self) -> Fraction | None:
        """`end_seconds` as the decimal number that was written."""
        return None if self.end_seconds is None else Fraction(repr(self.end_seconds))

    def digested(self) -> dict[str, Any]:
        """The options that change the frames or the detections, as they enter the RUN digest."""
        return {
            "fps": float(self.fps),
            "start_seconds": float(self.start_seconds),
            "end_seconds": None if self.end_seconds is None else float(self.end_seconds),
            "max_frames": self.max_frames,
            "min_score": float(self.min_score),
            "labels": None if self.labels is None else sorted(set(self.labels)),
        }

    @classmethod
    def from_message(cls, fields: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Options:
        """Options of a message's fields over the deployment's `REELSCAN_*` defaults.

        Raises:
            InvalidTaskError: a field is unknown, or its value is not allowed.
            UsageError: a variable of the deployment is wrong.
        """
        defaults = cls.defaults(environment)
        try:
            return cls(**{**defaults, **fields})
        except ValidationError as error:
            spelled = {name: variable_of(name) for name in defaults if name not in fields}
            raise InvalidTaskError(describe(error, cls, spelled)) from error

    @classmethod
    def from_text(cls, texts: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Options:
        """Options of flags' or workflow parameters' texts over `REELSCAN_*` defaults. Absent, None and "" are unset.

        Raises:
            UsageError: a flag or a variable is wrong; it is named with what was allowed.
        """
        defaults = cls.defaults(environment)
        values = parse_texts(texts, flag_of)
        try:
            return cls(**{**defaults, **values})
        except ValidationError as error:
            by_variable = {name: variable_of(name) for name in defaults if name not in values}
            spelled = {name: flag_of(name) for name in cls.model_fields} | by_variable
            raise UsageError(describe(error, cls, spelled, texts)) from error

    @classmethod
    def defaults(cls, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The options that `REELSCAN_*` variables set.

        Raises:
            UsageError: a variable cannot be read, or is out of bounds.
        """
        environment = os.environ if environment is None else environment
        texts = {name: environment.get(variable_of(name)) for name in cls.model_fields}
        values = parse_texts(texts, variable_of)
        try:
            cls(**values)
        except ValidationError as error:
            spelled = {name: variable_of(name) for name in cls.model_fields}
            raise UsageError(describe(error, cls, spelled, texts)) from error
        return values


_LISTS = ("labels", "outputs")
_TEXTS = ("model",)
_NUMBER = re.compile(r"[+-]?([0-9]{1,40}\.?[0-9]{0,40}|\.[0-9]{1,40})([eE][+-]?[0-9]{1,3})?")


def parse_texts(texts: Mapping[str, str | None], spell: Any) -> dict[str, Any]:
    """Turn texts into the JSON values that a message would hold. `spell` gives a name as the user wrote it."""
    values: dict[str, Any] = {}
    for name, text in texts.items():
        if text is None or text == "":
            continue
        if name in _LISTS:
            values[name] = [part.strip() for part in text.split(",") if part.strip()]
        elif name in _TEXTS or (name == "chunk_seconds" and text == "auto"):
            values[name] = text
        elif name == "force":
            if text.lower() not in ("true", "false", "1", "0", "yes", "no"):
                raise UsageError(f"{spell(name)}: {text!r} is not true or false")
            values[name] = text.lower() in ("true", "1", "yes")
        elif _NUMBER.fullmatch(text):
            values[name] = int(text) if text.isdecimal() else float(text)
        else:
            raise UsageError(f"{spell(name)}: {text[:80]!r} is not a number")
    return values


def describe(
    error: ValidationError,
    model: type[BaseModel],
    spelled: Mapping[str, str] | None = None,
    texts: Mapping[str, str | None] | None = None,
) -> str:
    """The first problem of a validation in one line: field, value, what is allowed.

    Args:
        model: that was to be made.
        spelled: fields as the user wrote them, if not by name.
        texts: values as the user wrote them, if not as they are.
    """
    first = error.errors(include_url=False)[0]
    spelled = spelled or {}
    if first["type"] == _NO_RANGE:
        start, end = (spelled.get(name, name) for name in ("start_seconds", "end_seconds"))
        return f"{end} {first['ctx']['end']:g} is not after {start} {first['ctx']['start']:g}"
    name = str(first["loc"][0])
    where = spelled.get(name, name)
    if first["type"] == "extra_forbidden":
        return f"{where[:80]!r} is not a known field; known are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{where!r} is missing"
    reason = str(first["ctx"]["error"]) if first["type"] == "value_error" else "is not allowed"
    bounds = allowed_values(model.model_fields[name])
    return f"{where}: {_shown(first, (texts or {}).get(name))} {reason}; allowed is {bounds}"


def _shown(problem: ErrorDetails, text: str | None) -> str:
    """The value, or the element of a list, that is wrong."""
    is_element = isinstance(problem["loc"][-1], int)
    shown = repr(problem["input"] if text is None or is_element else text)
    return shown if len(shown) <= 80 else shown[:77] + "..."
