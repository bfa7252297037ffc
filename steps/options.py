"""The options of a task: one table for flags, message fields, workflow parameters and `REELSCAN_*` variables."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from steps.errors import InvalidTaskError, UsageError
from steps.settings import ENVIRONMENT_PREFIX

OUTPUTS: tuple[str, ...] = ("frames", "parquet", "coco", "rekognition")
"""The outputs that can be written, and the default."""
NOT_YET_WRITTEN_OUTPUTS: tuple[str, ...] = ("report", "preview")

Label = Annotated[str, StringConstraints(min_length=1, max_length=128)]


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
    labels: list[Label] | None = Field(default=None, min_length=1, max_length=1000, description="only these labels")
    model: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$", description="model name at the server"
    )
    chunk_seconds: float | Literal["auto"] = Field(
        default="auto",
        description="aim for chunks of so much video, cut at keyframes (above 0, at most 1e7), or auto",
    )
    outputs: list[str] = Field(default=list(OUTPUTS), min_length=1, max_length=20, description="result files to write")
    force: bool = Field(default=False, description="compute again even if results exist")
    priority: int = Field(default=0, ge=0, le=9, description="runs with a higher one start first")

    @model_validator(mode="after")
    def _check_together(self) -> Options:
        if self.end_seconds is not None and self.end_seconds <= self.start_seconds:
            raise ValueError(f"end_seconds {self.end_seconds:g} is not after start_seconds {self.start_seconds:g}")
        if self.chunk_seconds != "auto" and not 0 < self.chunk_seconds <= 1e7:
            raise ValueError(f"chunk_seconds {self.chunk_seconds:g} is not above 0 and at most 1e7; or say auto")
        for output in self.outputs:
            if output in NOT_YET_WRITTEN_OUTPUTS:
                raise ValueError(f"outputs: {output!r} cannot be written yet; allowed are {', '.join(OUTPUTS)}")
            if output not in OUTPUTS:
                raise ValueError(f"outputs: {output[:80]!r} is not known; allowed are {', '.join(OUTPUTS)}")
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
        try:
            return cls(**{**cls.defaults(environment), **fields})
        except ValidationError as error:
            raise InvalidTaskError(describe(error, cls)) from error

    @classmethod
    def from_text(cls, texts: Mapping[str, str | None], environment: Mapping[str, str] | None = None) -> Options:
        """Options of flags' or workflow parameters' texts over `REELSCAN_*` defaults. Absent, None and "" are unset.

        Raises:
            UsageError: a flag or a variable is wrong; it is named with what was allowed.
        """
        try:
            return cls(
                **{
                    **cls.defaults(environment),
                    **parse_texts(texts, lambda name: "--" + name.replace("_", "-")),
                }
            )
        except ValidationError as error:
            raise UsageError(describe(error, cls)) from error

    @classmethod
    def defaults(cls, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
        """The options that `REELSCAN_*` variables set.

        Raises:
            UsageError: a variable cannot be read, or is out of bounds.
        """
        environment = os.environ if environment is None else environment
        texts = {name: environment.get(ENVIRONMENT_PREFIX + name.upper()) for name in cls.model_fields}
        values = parse_texts(texts, lambda name: ENVIRONMENT_PREFIX + name.upper())
        try:
            cls(**values)
        except ValidationError as error:
            raise UsageError(f"a {ENVIRONMENT_PREFIX}* variable: {describe(error, cls)}") from error
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


def describe(error: ValidationError, model: type[BaseModel]) -> str:
    """The first problem of a validation in one line: field, value, what is allowed."""
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"][:1]) or "the task"
    if first["type"] == "extra_forbidden":
        return f"{where[:80]!r} is not a known field; known are {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{where!r} is missing"
    if first["type"] == "value_error":
        return str(first["msg"]).removeprefix("Value error, ")
    shown = repr(first.get("input"))
    return f"{where}: {shown if len(shown) <= 80 else shown[:77] + '...'}: {first['msg']}"
