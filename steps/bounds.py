"""What a field of the settings, the options or a task allows, in words for whoever has to change its value."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

if TYPE_CHECKING:
    from pydantic.config import JsonDict
    from pydantic.fields import FieldInfo


def allowed(words: str) -> JsonDict:
    """For `json_schema_extra`: the words for a field whose bounds are not all that it asks for."""
    return {"allowed": words}


def allowed_values(field: FieldInfo) -> str:
    """What a field allows: `a number from 0 to 1000`, or its own words."""
    extra = field.json_schema_extra
    if isinstance(extra, dict) and "allowed" in extra:
        return str(extra["allowed"])
    kinds = get_args(field.annotation) or (field.annotation,)
    if bool in kinds:
        return "true or false"
    if int not in kinds and float not in kinds:
        return "text"
    kind = "a whole number" if int in kinds else "a number"
    least, above, most = (_bound(field, name) for name in ("ge", "gt", "le"))
    if least and most:
        return f"{kind} from {least} to {most}"
    start = f"of at least {least}" if least else f"above {above}" if above else ""
    end = f"of at most {most}" if most else ""
    return " ".join(filter(None, (kind, " and ".join(filter(None, (start, end))))))


def _bound(field: FieldInfo, name: str) -> str:
    """The bound of this name as it is written, "" if there is none."""
    values: list[Any] = [getattr(rule, name) for rule in field.metadata if getattr(rule, name, None) is not None]
    return f"{values[0]:.15g}" if values else ""
