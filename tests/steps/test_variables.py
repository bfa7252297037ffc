"""Variables that nothing reads are refused, those that others put there are not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from steps.errors import UsageError
from steps.settings import Settings
from steps.variables import check_variables, known_variables

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("variable", "nearest"),
    [
        ("REELSCAN_BATCHSIZE", "REELSCAN_BATCH_SIZE"),
        ("REELSCAN_RESULT", "REELSCAN_RESULTS"),
        ("REELSCAN_TASKQUEUE", "REELSCAN_TASK_QUEUE"),
        ("REELSCAN_MINSCORE", "REELSCAN_MIN_SCORE"),
        ("REELSCAN_JOB", "REELSCAN_JOBS"),
        ("REELSCAN_fps", "REELSCAN_FPS"),
    ],
)
def test_a_misspelled_variable_is_named_with_the_known_one_most_like_it(variable: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"^{variable} is no variable of Reelscan; the most similar is {nearest}:"):
        Settings.from_environment({"REELSCAN_RESULTS": "s3://b", variable: "5"})


def test_what_is_like_nothing_is_refused_too() -> None:
    with pytest.raises(UsageError, match="REELSCAN_ is no variable"):
        check_variables({"REELSCAN_": "1"})
    with pytest.raises(UsageError, match="REELSCAN_日本 is no variable"):
        check_variables({"REELSCAN_日本": "1"})


def test_an_empty_variable_counts_as_unset() -> None:
    check_variables({"REELSCAN_BATCHSIZE": ""})


@pytest.mark.parametrize(
    "variable",
    [
        # Of the Services reelscan, reelscan-serving and reelscan-task-queue, as kubelet names them.
        "REELSCAN_SERVICE_HOST", "REELSCAN_SERVICE_PORT", "REELSCAN_PORT", "REELSCAN_PORT_80_TCP_ADDR",
        "REELSCAN_SERVING_SERVICE_HOST", "REELSCAN_SERVING_SERVICE_PORT", "REELSCAN_SERVING_SERVICE_PORT_GRPC",
        "REELSCAN_SERVING_PORT", "REELSCAN_SERVING_PORT_8500_TCP", "REELSCAN_SERVING_PORT_8500_TCP_PROTO",
        "REELSCAN_TASK_QUEUE_PORT", "REELSCAN_TASK_QUEUE_SERVICE_HOST",
    ],
)  # fmt: skip
def test_what_kubernetes_says_of_a_service_does_not_matter(variable: str) -> None:
    check_variables({variable: "tcp://10.0.0.1:8500"})


def test_every_variable_that_the_code_names_is_known() -> None:
    files = [*ROOT.glob("steps/**/*.py"), *ROOT.glob("local/**/*.py"), ROOT / "README.md", *ROOT.glob("docs/*.md")]
    text = "\n".join(path.read_text() for path in files if "_protos" not in path.parts)
    named = set(re.findall(r"\bREELSCAN_[A-Z_]*[A-Z]\b", text))
    assert "REELSCAN_TASK_QUEUE" in named
    assert named <= set(known_variables())


def test_no_known_variable_is_taken_for_one_of_kubernetes() -> None:
    for variable in known_variables():
        misspelled = variable + "X"
        with pytest.raises(UsageError, match=misspelled):
            check_variables({misspelled: "1"})
