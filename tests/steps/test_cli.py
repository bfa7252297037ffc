"""The command line: exit statuses, one line of error, and a start that costs little."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path

import pytest

from steps.errors import ERROR_CODES, ReelscanError
from steps.options import Options

CLIP = str(Path(__file__).parents[2] / "samples/one-by-one-person.mp4")
SLOW_TO_IMPORT = {"boto3", "botocore", "pyarrow", "rich", "moto", "flask", "cv2", "tensorflow"}
"""Each would cost a step a tenth of a second of CPU or more."""


def reelscan(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "steps", *arguments],
        capture_output=True, text=True, timeout=120, env={**os.environ, **(environment or {})}, check=False,
    )  # fmt: skip


def all_errors(base: type[ReelscanError] = ReelscanError) -> list[type[ReelscanError]]:
    return [base, *(error for derived in base.__subclasses__() for error in all_errors(derived))]


@pytest.mark.parametrize("error", all_errors())
def test_every_error_has_an_exit_status_and_a_code_of_the_contract(error: type[ReelscanError]) -> None:
    assert error.exit_status in {1, 2, 3, 4, 5, 143}
    assert error.code in ERROR_CODES


def test_a_message_of_an_error_is_one_line() -> None:
    assert "\n" not in str(ReelscanError("a\nb\r\n  c"))


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("nonsense",), 2, "nonsense"),
        (("run", "--fps", "many", CLIP), 2, "--fps: 'many' is not a number"),
        (("run", "--fps", "1e9", CLIP), 2, "fps"),
        (("run", "--outputs", "preview", CLIP), 2, "'preview' cannot be written yet"),
        (("run", "--outputs", "report", CLIP), 2, "'report' cannot be written yet"),
        (("run", "--start", "5", "--end", "4", CLIP), 2, "--end 4 is not after --start 5"),
        (("run", "/nowhere/clip.mp4"), 3, "does not exist"),
        (("run", "ftp://host/clip.mp4"), 2, "ftp"),
        (("plan", "--bucket", "b"), 2, "--object"),
        (("plan", "--body", "%%%", "--results", "/tmp"), 2, "base64"),
        (("detect", "--run", "/nowhere/run", "--chunk", "0"), 3, "does not exist"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_its_exit_status(
    arguments: tuple[str, ...], status: int, said: str
) -> None:
    done = reelscan(*arguments)
    assert done.returncode == status, done.stderr
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


def test_a_setting_that_is_wrong_is_named() -> None:
    done = reelscan("run", CLIP, environment={"REELSCAN_BATCH_SIZE": "none"})
    assert done.returncode == 2
    assert "REELSCAN_BATCH_SIZE" in done.stderr


def test_a_variable_that_nothing_reads_is_named() -> None:
    done = reelscan("run", CLIP, environment={"REELSCAN_BATCHSIZE": "4"})
    assert done.returncode == 2
    assert "REELSCAN_BATCHSIZE is no variable of Reelscan; the most similar is REELSCAN_BATCH_SIZE" in done.stderr


def test_a_message_that_is_no_task_ends_a_step_with_status_3(tmp_path: Path) -> None:
    for body in (b"no json", b'{"bucket": "b"}', b"[" * 5000, b"\xff\xfe"):
        done = reelscan("plan", "--body", base64.b64encode(body).decode(), "--results", str(tmp_path))
        assert done.returncode == 3
        assert len(done.stderr.strip().splitlines()) == 1


def test_help_names_every_option_of_a_task() -> None:
    shown = reelscan("run", "--help").stdout
    flags = {name: {"start_seconds": "--start", "end_seconds": "--end"}.get(name, "--" + name.replace("_", "-"))
             for name in Options.model_fields if name != "priority"}  # fmt: skip
    assert [flag for flag in flags.values() if flag not in shown] == []


def modules_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(' '.join(name for name in sys.modules if '.' not in name))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


STEP_IMPORTS = {
    "plan": "import steps.commands.plan, steps.planner, steps.job, steps.task",
    "detect": "import steps.commands.detect, steps.detect, steps.planner",
    "aggregate": "import steps.commands.aggregate, steps.aggregate, steps.completed, steps.ledger, steps.planner",
    "finish": "import steps.commands.finish, steps.finish, steps.ledger",
}


@pytest.mark.parametrize("step", STEP_IMPORTS)
def test_the_start_of_a_step_imports_nothing_slow_before_it_is_needed(step: str) -> None:
    client = (
        "from steps.s3 import open_bucket; from steps.settings import Settings; import os; "
        "os.environ.update(AWS_ACCESS_KEY_ID='x', AWS_SECRET_ACCESS_KEY='x', AWS_REGION='us-east-1'); "
        "open_bucket('bucket', Settings())"
    )
    assert SLOW_TO_IMPORT.isdisjoint(modules_after(f"{STEP_IMPORTS[step]}; {client}"))


def test_importing_the_steps_imports_neither_tensorflow_nor_hera_nor_kubernetes() -> None:
    code = (
        "import sys, pkgutil, importlib, steps\n"
        "for found in pkgutil.walk_packages(steps.__path__, 'steps.'):\n"
        "    if '_protos' not in found.name and found.name != 'steps.__main__':\n"
        "        importlib.import_module(found.name)"
    )
    assert {"tensorflow", "hera", "kubernetes", "local"}.isdisjoint(modules_after(code))
