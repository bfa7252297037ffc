"""The variables `REELSCAN_*`: which there are, and those that are none of them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

from steps.errors import UsageError
from steps.options import Options
from steps.settings import ENVIRONMENT_PREFIX, Settings, variable_of

COMMAND_VARIABLES = ("REELSCAN_JOBS", "REELSCAN_TASK_DATA_BUCKET")
"""Of flags of the command line that are neither settings nor options."""

# Kubernetes gives them to every pod in whose namespace there is a Service named reelscan-something.
_SERVICE_LINK = re.compile(rf"{ENVIRONMENT_PREFIX}(.*_)?(SERVICE_HOST|SERVICE_PORT(_.*)?|PORT(_.*)?)")


def known_variables() -> list[str]:
    """Every variable that means something."""
    return [variable_of(name) for name in (*Settings.model_fields, *Options.model_fields)] + [*COMMAND_VARIABLES]


def check_variables(environment: Mapping[str, str]) -> None:
    """Refuse a variable that nothing reads: it is a slip of the pen, and what it should set is not set.

    Raises:
        UsageError: it is named, with the known one that is most like it.
    """
    known = known_variables()
    for name, value in environment.items():
        is_ours = name.startswith(ENVIRONMENT_PREFIX) and value and not _SERVICE_LINK.fullmatch(name)
        if is_ours and name not in known:
            (nearest,) = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise UsageError(
                f"{name[:100]} is no variable of Reelscan; the most similar is {nearest}: correct it or unset it"
            )
