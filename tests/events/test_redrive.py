"""Putting dead letters back on the task queue."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest

from events import redriving
from events.redriving import Choice, Redriven, redrive, video_of
from steps.completed import StepError, completed_from_error
from steps.errors import ERROR_CODES, QueueError, UsageError
from steps.ledger import Outbox
from steps.queues import Message, Queues
from steps.task import parse_message
from steps.timestamps import utc_now
from tests.faults import FaultProxy
from tests.local.command import reelscan
from tests.local.conftest import Deployment

BODY = '{"bucket": "videos", "object": "clip.mp4", "fps": 2}'


def bury(deployment: Deployment, code: str = "timeout", task_id: str = "old-task", body: str = BODY) -> str:
    """Put a dead letter on its queue; gives its message id."""
    attributes = {"task_id": task_id, "code": code, "reason": f"because of {code}"}
    queue = str(deployment.settings.dead_letter_queue)
    return Queues(deployment.settings).send(queue, body, attributes)


def put_back(deployment: Deployment, choice: Choice | None = None, **options: Any) -> tuple[list[Redriven], Any]:
    told: list[Redriven] = []
    settings = deployment.settings
    return told, redrive(Queues(settings), settings, choice or Choice(), told.append, **options)


def tasks(deployment: Deployment) -> dict[str, str]:
    """Bodies of the task queue by message id; it is empty then."""
    messages = deployment.aws.messages(str(deployment.settings.task_queue))
    return {message["MessageId"]: message["Body"] for message in messages}


def buried(deployment: Deployment) -> list[tuple[str, str]]:
    """Task id and code of the letters that are visible; there are none then."""
    return sorted(
        tuple(message["MessageAttributes"][name]["StringValue"] for name in ("task_id", "code"))
        for message in deployment.dead_letters()
    )


def test_a_letter_moves_whole_to_the_task_queue(deployment: Deployment) -> None:
    bury(deployment, body='{"bucket": "ü", "object": "a\\u0000{{x}}"}')
    (one,), counts = put_back(deployment)
    assert tasks(deployment) == {one.message_id: '{"bucket": "ü", "object": "a\\u0000{{x}}"}'}
    assert deployment.dead_letters() == []
    assert counts.redriven == 1


def test_what_the_outbox_buries_can_be_done_again(deployment: Deployment) -> None:
    settings = deployment.settings
    (received,) = parse_message(BODY.encode(), "first", settings)
    failure = completed_from_error(received, StepError.make("timeout", "slow", "detect"), received_at=utc_now())
    Outbox(deployment.ledger(), Queues(settings), settings).report(failure, received.body)
    put_back(deployment, Choice(codes=("timeout",), task_ids=("first",)))
    ((message_id, body),) = tasks(deployment).items()
    (again,) = parse_message(body.encode(), message_id, settings)
    assert again.require() == received.require()


def test_letters_of_many_receives_all_move(deployment: Deployment) -> None:
    for number in range(25):
        bury(deployment, task_id=f"t{number}", body=json.dumps({"bucket": "b1", "object": str(number)}))
    told, counts = put_back(deployment)
    sent = tasks(deployment)
    assert sent == {str(one.message_id): one.letter.body for one in told}
    assert len(sent) == counts.redriven == 25
    assert deployment.dead_letters() == []


LETTERS = [("a", "timeout"), ("b", "not_found"), ("c", "invalid_task"), ("d", "timeout")]


@pytest.mark.parametrize(
    ("choice", "moved"),
    [
        (Choice(), "abd"),
        (Choice(codes=("timeout",)), "ad"),
        (Choice(codes=("not_found", "invalid_task")), "bc"),
        (Choice(task_ids=("c", "d", "unknown")), "cd"),
        (Choice(codes=("timeout",), task_ids=("a", "b")), "a"),
        (Choice(include_invalid=True), "abcd"),
        (Choice(codes=("deleted",)), ""),
        (Choice(max_letters=10), "abd"),
    ],
)
def test_only_the_chosen_letters_move_and_the_others_are_visible_again(
    deployment: Deployment, choice: Choice, moved: str
) -> None:
    for task_id, code in LETTERS:
        bury(deployment, code, task_id)
    told, counts = put_back(deployment, choice)
    assert sorted(one.letter.attributes["task_id"] for one in told) == list(moved)
    assert len(tasks(deployment)) == len(moved)
    assert buried(deployment) == [letter for letter in LETTERS if letter[0] not in moved]
    assert counts.redriven + counts.invalid + counts.not_chosen == 4
    assert counts.invalid == (1 if not choice.codes and not choice.task_ids and not choice.include_invalid else 0)


def test_no_more_than_the_most_are_moved(deployment: Deployment) -> None:
    for task_id, code in LETTERS:
        bury(deployment, code, task_id)
    _, counts = put_back(deployment, Choice(max_letters=2))
    assert len(tasks(deployment)) == 2
    assert len(deployment.dead_letters()) == 2
    assert counts.more


def test_a_message_that_sqs_moved_itself_is_left_for_the_reconciler(deployment: Deployment) -> None:
    queue = str(deployment.settings.dead_letter_queue)
    Queues(deployment.settings).send(queue, BODY)
    told, counts = put_back(deployment, Choice(include_invalid=True))
    assert (told, counts.without_task_id) == ([], 1)
    assert len(deployment.dead_letters()) == 1


def test_a_dry_run_tells_and_moves_nothing(deployment: Deployment) -> None:
    bury(deployment)
    (one,), counts = put_back(deployment, dry_run=True)
    assert (one.message_id, counts.redriven) == (None, 1)
    assert tasks(deployment) == {}
    assert buried(deployment) == [("old-task", "timeout")]


def test_a_task_that_fails_again_meanwhile_is_not_put_back_again(deployment: Deployment) -> None:
    bury(deployment)
    told: list[Redriven] = []

    def fail_again(one: Redriven) -> None:
        told.append(one)
        bury(deployment, task_id=str(one.message_id))

    settings = deployment.settings
    counts = redrive(Queues(settings), settings, Choice(), fail_again)
    assert (len(told), counts.redriven, counts.failed_again) == (1, 1, 1)
    assert buried(deployment) == [(told[0].message_id, "timeout")]


def test_a_letter_whose_task_cannot_be_sent_stays(deployment: Deployment, faults: FaultProxy) -> None:
    bury(deployment)
    faults.inject("throttle", "SendMessage", times=100)
    settings = deployment.settings.model_copy(update={"queue_timeout_seconds": 3})
    with pytest.raises(QueueError):
        redrive(Queues(settings), settings, Choice(), lambda one: None)
    assert buried(deployment) == [("old-task", "timeout")]
    assert tasks(deployment) == {}


def test_a_stop_between_sending_and_deleting_sends_twice_and_loses_none(deployment: Deployment) -> None:
    bury(deployment)

    def stop(one: Redriven) -> None:
        raise KeyboardInterrupt

    settings = deployment.settings
    with pytest.raises(KeyboardInterrupt):
        redrive(Queues(settings), settings, Choice(), stop)
    put_back(deployment)
    assert list(tasks(deployment).values()) == [BODY, BODY]
    assert deployment.dead_letters() == []


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"task_queue": None}, "REELSCAN_TASK_QUEUE"),
        ({"dead_letter_queue": None}, "REELSCAN_DEAD_LETTER_QUEUE"),
        ({"dead_letter_queue": "no-such-queue"}, "create it or set REELSCAN_DEAD_LETTER_QUEUE"),
    ],
)
def test_a_queue_that_is_not_there_is_named_by_its_variable(
    deployment: Deployment, change: dict[str, Any], said: str
) -> None:
    settings = deployment.settings.model_copy(update=change)
    with pytest.raises(UsageError, match=said):
        redrive(Queues(settings), settings, Choice(), lambda one: None)


def test_one_queue_for_both_is_refused_since_it_would_never_be_empty(deployment: Deployment) -> None:
    settings = deployment.settings
    settings = settings.model_copy(update={"dead_letter_queue": Queues(settings).url(str(settings.task_queue))})
    with pytest.raises(UsageError, match="is the task queue too"):
        redrive(Queues(settings), settings, Choice(), lambda one: None)


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        (BODY, "s3://videos/clip.mp4"),
        ("no JSON" * 100, ("no JSON" * 100)[: redriving.SHOWN_CHARACTERS]),
        ("[" * 100_000, "[" * redriving.SHOWN_CHARACTERS),
        ('{"bucket": 1, "object": "o"}', '{"bucket": 1, "object": "o"}'),
        ('["bucket"]', '["bucket"]'),
        ("null", "null"),
    ],
)
def test_of_any_body_something_can_be_shown(body: str, shown: str) -> None:
    assert video_of(Message("id", body, "receipt", 1)) == shown


class TestCommand:
    def test_what_was_put_back_is_a_table_and_one_line_sums_up(self, deployment: Deployment) -> None:
        for task_id, code in LETTERS:
            bury(deployment, code, task_id)
        done = reelscan("redrive", "--code", "timeout", "--task-id", "a", "--task-id", "lost")
        assert done.returncode == 0, done.stderr
        (message_id,) = tasks(deployment)
        head, row, last = done.stdout.splitlines()
        assert re.split(" {2,}", head.strip()) == ["new message", "old task", "code", "video", "reason"]
        assert re.split(" {2,}", row.strip()) == [
            message_id, "a", "timeout", "s3://videos/clip.mp4", "because of timeout",
        ]  # fmt: skip
        assert last == (
            "1 dead letter put back on the task queue; left: 3 not chosen; no letter that fits was found of task lost"
        )

    def test_what_is_left_is_said_with_the_reason(self, deployment: Deployment) -> None:
        bury(deployment, "invalid_task")
        Queues(deployment.settings).send(str(deployment.settings.dead_letter_queue), BODY)
        done = reelscan("redrive")
        assert done.returncode == 0, done.stderr
        assert done.stdout == (
            "0 dead letters put back on the task queue; left: 1 of invalid_task, which would fail again "
            "(--include-invalid puts them back), 1 without a task_id, for the reconciler to report\n"
        )

    def test_a_dry_run_says_what_would_be(self, deployment: Deployment) -> None:
        for _ in range(2):
            bury(deployment)
        done = reelscan("redrive", "--dry-run", "--max", "1")
        assert done.stdout.splitlines()[-1] == "1 dead letter would be put back; left: what is behind the first 1"

    @pytest.mark.parametrize("place", ["body", "task_id"])
    def test_a_letter_does_not_steer_the_terminal(self, deployment: Deployment, place: str) -> None:
        bury(deployment, **{place: "\x7f\u202e[bold]\x9b31m"})
        done = reelscan("redrive")
        assert done.returncode == 0, done.stderr
        assert "\\x7f\\u202e[bold]\\x9b31m" in done.stdout
        assert all(letter.isprintable() for letter in done.stdout.replace("\n", ""))

    def test_what_was_done_before_a_failure_is_shown(
        self, deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("REELSCAN_QUEUE_TIMEOUT_SECONDS", "3")
        bury(deployment)
        faults.inject("throttle", "DeleteMessage", times=100)
        done = reelscan("redrive")
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1
        assert next(iter(tasks(deployment))) in done.stdout

    @pytest.mark.parametrize("arguments", [("--code", "nonsense"), ("--max", "0"), ("extra",)])
    def test_wrong_usage_is_status_2(self, deployment: Deployment, arguments: tuple[str, ...]) -> None:
        done = reelscan("redrive", *arguments)
        assert done.returncode == 2
        assert len(done.stderr.splitlines()) == 1

    def test_the_error_names_the_codes_there_are(self, deployment: Deployment) -> None:
        assert all(code in reelscan("redrive", "--code", "x").stderr for code in ERROR_CODES)

    @pytest.mark.parametrize("variable", ["REELSCAN_TASK_QUEUE", "REELSCAN_DEAD_LETTER_QUEUE"])
    def test_a_queue_that_is_not_set_is_named(
        self, deployment: Deployment, variable: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delenv(variable)
        done = reelscan("redrive")
        assert done.returncode == 2
        assert variable in done.stderr


def test_nothing_of_kubernetes_is_imported() -> None:
    code = (
        "import sys, events.commands.redrive, events.redriving, events.dead_letters\n"
        "print(*(name for name in sys.modules if '.' not in name))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert {"lightkube", "kubernetes", "hera", "rich", "boto3"}.isdisjoint(done.stdout.split())
