from __future__ import annotations

import subprocess
import sys

import pytest

_IMPORT_ALL_STEPS = """
import importlib, pkgutil, sys
import steps
for module in pkgutil.walk_packages(steps.__path__, "steps."):
    if not module.name.startswith(("steps._protos", "steps.__main__")):
        importlib.import_module(module.name)
print("\\n".join(sys.modules))
"""


@pytest.fixture
def subprocess_modules() -> set[str]:
    """All modules that a process holds which has imported every module of `steps`."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT_ALL_STEPS], capture_output=True, text=True, timeout=120, check=True
    )
    modules = set(done.stdout.split())
    assert {"steps.aggregate", "steps.commands.plan"} <= modules
    return modules
