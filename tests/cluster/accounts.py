"""The accounts of what was sent: whether each task was reported as it must be, and nothing else was.

Pure functions over what `tests.cluster.collecting` brings.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from events.runs import FINALIZER, NAME_START
from steps.completed import Completed
from steps.errors import StorageError
from steps.queues import escape_for_sqs
from tests.cluster.traffic import Expectation, Sent
from tests.cluster.upsets import STEP, Upset
from tests.coded import number_read

CLOCK_SECONDS = 2.0
"""How exact the times are that are compared."""
STEP_SECONDS = 30.0
"""How long after its entry a task may still not be marked as sent, since the pod that reported it was deleted."""
_KEY = re.compile(r"(?P<task>.+)\.(?P<attempt>[0-9]+)\.(?P<kind>completed\.json|sent|resend)(-[0-9]+)?")

Attempt = tuple[str, int]
"""Of a task, by its id."""


@dataclass(frozen=True)
class Received:
    """A message of the completed queue."""

    data: bytes
    at: float
    """When it was sent to the queue, in Unix seconds."""


@dataclass(frozen=True)
class DeadLetter:
    """A message of the dead-letter queue."""

    task_id: str
    code: str
    body: str
    at: float


@dataclass(frozen=True)
class LedgerObject:
    """An object of the ledger; of an entry what it holds too."""

    written_at: float
    data: bytes = b""


@dataclass(frozen=True)
class Workflow:
    """What Kubernetes has of one. Times are Unix seconds, cut to whole ones; 0 is never."""

    name: str
    phase: str
    finalizers: tuple[str, ...] = ()
    priority: int = 0
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0


@dataclass(frozen=True)
class Collected:
    """All that is known when all is done."""

    sent: Sequence[Sent]
    received: Sequence[Received]
    dead_letters: Sequence[DeadLetter]
    ledger: Mapping[str, LedgerObject]
    """By key below `ledger/`."""
    workflows: Sequence[Workflow]
    upsets: Sequence[Upset] = ()
    fifo: bool = False
    """Whether the completed queue drops doubles."""


@dataclass
class Row:
    """Tasks of one outcome."""

    expected: int = 0
    in_ledger: int = 0
    messages: int = 0
    dead_letters: int = 0


@dataclass(frozen=True)
class Spread:
    """Of measured seconds."""

    least: float
    middle: float
    p95: float
    most: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Spread:
        """At least one must have been measured."""
        p95 = quantiles(seconds, n=20, method="inclusive")[-1] if len(seconds) > 1 else seconds[0]
        return cls(min(seconds), median(seconds), p95, max(seconds))

    def __str__(self) -> str:
        return f"min {self.least:.1f}, median {self.middle:.1f}, p95 {self.p95:.1f}, max {self.most:.1f}"


@dataclass
class Accounts:
    """The balance."""

    rows: dict[str, Row] = field(default_factory=lambda: defaultdict(Row))
    """By what became of the tasks."""
    problems: list[str] = field(default_factory=list)
    doubled: list[str] = field(default_factory=list)
    """What came more than once, as it may where a process dies or hangs between sending and noting that."""
    seconds: dict[str, Spread] = field(default_factory=dict)

    def table(self) -> str:
        """For people to read."""
        lines = [f"{'tasks':<32}{'expected':>10}{'in ledger':>11}{'messages':>10}{'dead letters':>14}"]
        whole = Row()
        for name, row in sorted(self.rows.items()):
            lines.append(_line(name, row))
            whole.expected += row.expected
            whole.in_ledger += row.in_ledger
            whole.messages += row.messages
            whole.dead_letters += row.dead_letters
        lines.append(_line("all", whole))
        lines += [f"seconds from {name}: {spread}" for name, spread in self.seconds.items()]
        lines += [f"doubled: {text}" for text in self.doubled]
        lines += [f"problem: {text}" for text in self.problems]
        return "\n".join(lines)

    def write(self, path: Path, **facts: Any) -> None:
        """As JSON, with facts about the run."""
        document = {
            **facts,
            "rows": {name: asdict(row) for name, row in sorted(self.rows.items())},
            "seconds": {name: asdict(spread) for name, spread in self.seconds.items()},
            "doubled": self.doubled,
            "problems": self.problems,
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1) + "\n")


def balance(collected: Collected) -> Accounts:
    """Compare what came with what must come."""
    return _Balance(collected).made()


def row_name(status: str, code: str | None) -> str:
    """Name of a row."""
    return status if code is None else f"{status}: {code}"


class _Balance:
    def __init__(self, collected: Collected) -> None:
        self._collected = collected
        self._accounts = Accounts()
        self._expected = {task_id: found for sent in collected.sent for task_id, found in sent.expected.items()}
        self._bodies = {task: sent.body for sent in collected.sent if len(sent.expected) == 1 for task in sent.expected}
        self._workflows = {task_id: workflow_name(sent) for sent in collected.sent for task_id in sent.expected}
        self._entries: dict[Attempt, LedgerObject] = {}
        self._marked: set[Attempt] = set()
        self._resends: Counter[Attempt] = Counter()
        self._messages: dict[Attempt, list[Received]] = defaultdict(list)
        self._read: dict[Attempt, Completed] = {}

    def made(self) -> Accounts:
        if len({sent.message_id for sent in self._collected.sent}) < len(self._collected.sent):
            self._problem("two messages have one id")
        for expectation in self._expected.values():
            self._row(expectation.status, expectation.code).expected += 1
        self._read_ledger()
        self._read_messages()
        for task_id, expectation in self._expected.items():
            self._check_task(task_id, expectation)
        for attempt, messages in self._messages.items():
            self._check_bytes(attempt, messages)
            self._check_doubles("completed message", attempt, [message.at for message in messages])
        self._check_dead_letters()
        self._check_workflows()
        self._accounts.seconds = measured(self._collected, self._messages)
        return self._accounts

    def _problem(self, text: str) -> None:
        self._accounts.problems.append(text)

    def _row(self, status: str, code: str | None) -> Row:
        return self._accounts.rows[row_name(status, code)]

    def _parse(self, what: str, data: bytes) -> Completed | None:
        try:
            completed = Completed.from_bytes(data)
        except StorageError as error:
            self._problem(f"{what}: {error}")
            return None
        if completed.task_id not in self._expected:
            self._problem(f"{what} of the unknown task {completed.task_id}")
        if completed.attempt != 1:
            self._problem(f"{what} of {completed.task_id}: attempt {completed.attempt}, where none was retried")
        return completed

    def _read_ledger(self) -> None:
        for key, found in self._collected.ledger.items():
            parts = _KEY.fullmatch(key)
            if parts is None:
                continue
            attempt = (parts["task"], int(parts["attempt"]))
            if parts["kind"] == "sent":
                self._marked.add(attempt)
            elif parts["kind"] == "resend":
                self._resends[attempt] += 1
            else:
                self._entries[attempt] = found
                completed = self._parse(f"entry {key}", found.data)
                if completed is not None:
                    self._row(*_outcome(completed)).in_ledger += 1
                    if (completed.task_id, completed.attempt) != attempt:
                        self._problem(f"entry {key} is of task {completed.task_id}, attempt {completed.attempt}")

    def _read_messages(self) -> None:
        for message in sorted(self._collected.received, key=lambda message: message.at):
            completed = self._parse("completed message", message.data)
            if completed is not None:
                attempt = (completed.task_id, completed.attempt)
                self._messages[attempt].append(message)
                self._read.setdefault(attempt, completed)
                self._row(*_outcome(completed)).messages += 1

    def _check_task(self, task_id: str, expectation: Expectation) -> None:
        attempt = (task_id, 1)
        if attempt not in self._entries:
            self._problem(f"lost: {task_id} is not in the ledger")
        elif attempt not in self._marked:
            self._problem(f"{task_id} is in the ledger, but not marked as sent")
        if attempt not in self._read:
            self._problem(f"lost: {task_id} has no completed message")
            return
        completed = self._read[attempt]
        came = row_name(*_outcome(completed))
        if came != (due := row_name(expectation.status, expectation.code)):
            said = "" if completed.error is None else f": {completed.error.message}"
            self._problem(f"{task_id}: {came}, expected was {due}{said}")
            return
        if completed.id != expectation.id:
            self._problem(f"{task_id}: id {completed.id!r:.300}, sent was {expectation.id!r:.300}")
        key = None if completed.task is None else completed.task.object
        if key != expectation.object:
            self._problem(f"{task_id}: object {key!r:.300}, sent was {expectation.object!r:.300}")
        if expectation.frames is not None:
            self._check_frames(task_id, completed, expectation.frames)

    def _check_frames(self, task_id: str, completed: Completed, expected: tuple[int, ...]) -> None:
        frames, lines = completed.frames, completed.frame_records or []
        counts = None if frames is None else (frames.planned, frames.analysed, frames.missing)
        if counts != (len(expected), len(expected), []):
            self._problem(f"{task_id}: frames planned, analysed and missing are {counts}, expected are {len(expected)}")
        if tuple(line["frame"] for line in lines) != expected:
            self._problem(f"{task_id}: frames {[line['frame'] for line in lines]}, expected are {list(expected)}")
        if tuple(number_read(line) for line in lines) != expected:
            self._problem(f"{task_id}: pictures {[number_read(line) for line in lines]}, expected are {list(expected)}")

    def _check_bytes(self, attempt: Attempt, messages: list[Received]) -> None:
        if len({message.data for message in messages}) > 1:
            self._problem(f"contradictory: the messages of {attempt[0]}, attempt {attempt[1]}, differ")
        entry = self._entries.get(attempt)
        if entry is not None and any(message.data != entry.data for message in messages):
            self._problem(f"contradictory: a message of {attempt[0]}, attempt {attempt[1]}, differs from the ledger's")

    def _check_doubles(self, what: str, attempt: Attempt, times: Sequence[float], *, fifo: bool | None = None) -> None:
        if len(times) < 2:
            return
        text = f"{len(times)} times the {what} of {attempt[0]}"
        if self._collected.fifo if fifo is None else fifo:
            self._problem(f"{text}, on a FIFO queue")
            return
        entry = self._entries.get(attempt)
        if entry is None:
            self._problem(f"{text}, and no entry of the ledger")
            return
        second_at = sorted(times)[1]
        excuses = self._excuses(attempt, entry.written_at, second_at)
        doubles, resent = len(times) - 1, self._resends[attempt]
        lost = sum(upset.loses_answers for upset in excuses)
        names = ", ".join(sorted({upset.name for upset in excuses}))
        if not excuses:
            self._problem(f"{text}, {second_at - entry.written_at:.1f} s after its entry, while nothing of it was hit")
        elif doubles > len(excuses):
            self._problem(f"{text}, but it was hit {len(excuses)} times: {names}")
        elif doubles <= resent:
            self._accounts.doubled.append(f"{text}: sent again in its turn, after {names}")
        elif doubles <= resent + lost:
            self._accounts.doubled.append(f"{text}: the answer was lost, during {names}")
        else:
            self._problem(f"{text}, of which {resent} were sent again in their turn, after {names}")

    def _excuses(self, attempt: Attempt, entry_at: float, second_at: float) -> list[Upset]:
        """Hits of which each may have made one double: of a pod of the task's own run, or of S3 and SQS."""
        run = self._workflows.get(attempt[0], "")

        def may_double(upset: Upset) -> bool:
            if upset.loses_answers:
                end = second_at + CLOCK_SECONDS
            elif upset.name == STEP and run and _is_of(str(upset.before.get("pod")), run):
                end = entry_at + STEP_SECONDS
            else:
                return False
            return upset.at <= end and upset.until >= entry_at - CLOCK_SECONDS

        return [upset for upset in self._collected.upsets if may_double(upset)]

    def _check_dead_letters(self) -> None:
        letters: dict[str, list[DeadLetter]] = defaultdict(list)
        for letter in self._collected.dead_letters:
            letters[letter.task_id].append(letter)
            self._row("failed", letter.code).dead_letters += 1
        due = {task_id for task_id, expectation in self._expected.items() if expectation.dead_letter}
        for task_id in sorted(due - set(letters)):
            self._problem(f"lost: {task_id} failed and has no dead letter")
        for task_id, found in sorted(letters.items()):
            if task_id not in due:
                self._problem(f"dead letter of {task_id}, which must not have one: {found[0].code}")
                continue
            if {letter.code for letter in found} != {self._expected[task_id].code}:
                self._problem(f"dead letter of {task_id}: {found[0].code}, expected was {self._expected[task_id].code}")
            body = self._bodies.get(task_id)
            if body is not None and {letter.body for letter in found} != {escape_for_sqs(body)}:
                self._problem(f"dead letter of {task_id} is not what was sent: {found[0].body!r:.300}")
            self._check_doubles("dead letter", (task_id, 1), [letter.at for letter in found], fifo=False)

    def _check_workflows(self) -> None:
        found = {workflow.name: workflow for workflow in self._collected.workflows}
        due = {workflow_name(sent) for sent in self._collected.sent}
        for name in sorted(due - set(found)):
            self._problem(f"workflow {name} is missing")
        for name in sorted(set(found) - due):
            self._problem(f"workflow {name} belongs to no message")
        for workflow in found.values():
            if not workflow.phase:
                self._problem(f"workflow {workflow.name} has no phase")
            if FINALIZER in workflow.finalizers:
                self._problem(f"workflow {workflow.name} still has its finalizer")


def workflow_name(sent: Sent) -> str:
    """Of the Workflow of a message."""
    return NAME_START + sent.message_id


def _is_of(pod: str, run: str) -> bool:
    """Whether a pod's name is of a Workflow's."""
    return pod == run or pod.startswith(f"{run}-")


def measured(collected: Collected, messages: Mapping[Attempt, Sequence[Received]]) -> dict[str, Spread]:
    """Seconds from sending to the Workflow, and on to the first completed message of each task."""
    created = {workflow.name: workflow.created_at for workflow in collected.workflows}
    to_workflow, to_message, in_all = [], [], []
    for sent in collected.sent:
        begun = created.get(workflow_name(sent))
        if begun is None:
            continue
        # It was created within the second that its time names.
        to_workflow.append(max(0.0, begun + 0.5 - sent.at))
        for task_id in sent.expected:
            if found := messages.get((task_id, 1)):
                to_message.append(max(0.0, found[0].at - begun - 0.5))
                in_all.append(found[0].at - sent.at)
    spreads = {
        "sending to the workflow": to_workflow,
        "the workflow to the completed message": to_message,
        "sending to the completed message": in_all,
    }
    return {name: Spread.of(seconds) for name, seconds in spreads.items() if seconds}


def _outcome(completed: Completed) -> tuple[str, str | None]:
    return completed.status, None if completed.error is None else completed.error.code


def _line(name: str, row: Row) -> str:
    return f"{name:<32}{row.expected:>10}{row.in_ledger:>11}{row.messages:>10}{row.dead_letters:>14}"
