"""Messages for the task queue, good and bad ones, chosen by a seed; and what must come of each."""

from __future__ import annotations

import json
import random
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

from tests.media.writer import Video, write_video

FRAMES = 100
FPS = 5
GROUP_FRAMES = 10
DEFAULT_MAX_FRAMES = 4
"""Of the deployment, for the messages that can't say how many: notifications of S3."""
HUGE_BYTES = 60 << 10

CLIP_KEY = "clip.mp4"
TEXT_KEY = "text.mp4"
MISSING_KEY = "nowhere.mp4"
CAMERA_KEYS = tuple(f"camera {number}/été + 50% & more=less?.mp4" for number in range(24))
HOSTILE_KEYS = (
    "{{workflow.uid}}",
    "{{=1+}}",
    "{{",
    "$(touch /tmp/x)",
    "`touch /tmp/x`",
    "'; rm -rf /",
    "&a [*a]",
    "--force=true",
    "%2e%2e%2f+.mp4",
    '"]}, {"x": ["',
)
"""The clip is there under each."""
HOSTILE_TEXTS = (*HOSTILE_KEYS, "{{inputs.parameters.run}}", "${IFS}", "\u202e\x1b[31m\n\x00", "../../../etc/passwd")


@dataclass(frozen=True)
class Expectation:
    """What must come of a task."""

    status: str
    code: str | None = None
    frames: tuple[int, ...] | None = None
    """Numbers of the frames that are analysed; None: none is."""
    dead_letter: bool = False
    id: str | None = None
    """Returned untouched."""
    object: str | None = None
    """Likewise; None: the message names none."""


@dataclass(frozen=True)
class Sent:
    """A message that is on the task queue, or was."""

    body: str
    kind: str
    message_id: str
    expected: dict[str, Expectation]
    """By task id."""
    at: float = 0.0
    """When it was sent, in Unix seconds."""


@dataclass(frozen=True)
class Message:
    """One that is to be sent."""

    kind: str
    body: str
    expectations: tuple[Expectation, ...]
    """Of its tasks."""
    at_once: bool = False
    """To be sent within the same second as the one before it."""

    def sent(self, message_id: str, at: float | None = None) -> Sent:
        """The message, once the queue has it."""
        several = len(self.expectations) > 1
        expected = {
            f"{message_id}-{number}" if several else message_id: expectation
            for number, expectation in enumerate(self.expectations)
        }
        return Sent(self.body, self.kind, message_id, expected, time.time() if at is None else at)


def write_clip(path: Path) -> Path:
    """Each picture shows its number; a keyframe every two seconds."""
    options = {"g": str(GROUP_FRAMES), "keyint_min": str(GROUP_FRAMES), "sc_threshold": "0"}
    write_video(
        path,
        Video(encoder="libx264", numbers=range(FRAMES), fps=Fraction(FPS), width=128, height=64, options=options),
    )
    return path


def upload(s3: Any, bucket: str, clip: Path) -> None:
    """Put what the messages name into a bucket."""
    for key in (CLIP_KEY, *CAMERA_KEYS, *HOSTILE_KEYS):
        s3.put_object(Bucket=bucket, Key=key, Body=clip.read_bytes())
    s3.put_object(Bucket=bucket, Key=TEXT_KEY, Body=b"It was no video.\n" * 1000)


def record(bucket: str, key: str, event: str = "ObjectCreated:Put") -> dict[str, Any]:
    """A record of an S3 event notification, which has keys as forms have."""
    encoded = urllib.parse.quote_plus(key)
    return {"eventSource": "aws:s3", "eventName": event, "s3": {"bucket": {"name": bucket}, "object": {"key": encoded}}}


def failed(code: str, key: str | None = CLIP_KEY, token: str | None = None) -> Expectation:
    """Of a task that can't be done."""
    return Expectation("failed", code, dead_letter=True, id=token, object=key)


def succeeded(frames: range, key: str = CLIP_KEY, token: str | None = None) -> Expectation:
    """Of a task that can."""
    return Expectation("succeeded", frames=tuple(frames), id=token, object=key)


class Traffic:
    """Makes messages about a bucket that `upload` filled; only it is among the allowed sources."""

    def __init__(self, videos: str, results: str, seed: str) -> None:
        self._videos = videos
        self._results = results
        self._random = random.Random(f"{seed}/traffic")
        self._good: list[Message] = []

    def messages(self, count: int) -> list[Message]:
        """So many, at least one of each kind, in a seeded order."""
        assert count >= len(SHARES), f"{count} messages can't be of {len(SHARES)} kinds"
        more = self._random.choices(list(SHARES), list(SHARES.values()), k=count - len(SHARES))
        kinds = [*SHARES, *more]
        made = [MAKERS[kind](self) for kind in kinds if kind not in _AGAIN]
        made += [replace(self._random.choice(self._good), kind="duplicate") for kind in kinds if kind == "duplicate"]
        self._random.shuffle(made)
        for _ in range(kinds.count("resent")):
            place = made.index(self._random.choice(self._good))
            made.insert(place + 1, replace(made[place], kind="resent", at_once=True))
        return made

    def good(self) -> Message:
        """A range, at a rate, and few frames of it."""
        start = self._random.randrange(60)
        step, fps = self._random.choice(((1, 0), (1, 5), (2, 2.5), (5, 1)))
        most = self._random.randint(2, 12)
        options: dict[str, Any] = {"start_seconds": start / FPS, "fps": fps, "max_frames": most}
        end = FRAMES
        if self._random.random() < 0.5:
            end = start + self._random.randint(2, 40)
            options["end_seconds"] = end / FPS
        if self._random.random() < 0.3:
            options["priority"] = self._random.randint(0, 9)
        return self._keep("good", options, range(start, end, step)[:most])

    def several_chunks(self) -> Message:
        """Frames of more than one chunk, each of which is a pod."""
        start, most = self._random.randrange(20), self._random.randint(6, 12)
        chunk_seconds = self._random.choice((2, 4))
        options = {"start_seconds": start / FPS, "fps": 1, "max_frames": most, "chunk_seconds": chunk_seconds}
        return self._keep("several chunks", options, range(start, FRAMES, FPS)[:most])

    def notification(self) -> Message:
        """Of S3, with several videos."""
        keys = self._random.sample(CAMERA_KEYS, self._random.randint(2, 4))
        return self._notification("notification", [(record(self._videos, key), _brief(key)) for key in keys])

    def notification_with_a_bad_one(self) -> Message:
        """One record can't be done, the others can."""
        keys = self._random.sample(CAMERA_KEYS, self._random.randint(1, 3))
        records = [(record(self._videos, key), _brief(key)) for key in keys]
        bad = self._random.choice(
            (
                (record(self._videos, f"camera 1/{MISSING_KEY}"), failed("not_found", f"camera 1/{MISSING_KEY}")),
                (record(self._videos, TEXT_KEY), failed("not_a_video", TEXT_KEY)),
                (record(self._results, CLIP_KEY), failed("access_denied")),
                (record(self._videos, CLIP_KEY, "ObjectRemoved:Delete"), failed("invalid_task", None)),
                ({"eventName": "ObjectCreated:Put", "s3": [self._hostile()]}, failed("invalid_task", None)),
            )
        )
        records.insert(self._random.randint(0, len(records)), bad)
        return self._notification("notification with a bad one", records)

    def test_event(self) -> Message:
        """What S3 sends when notifications are set up: no task."""
        event = {"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": self._videos}
        return Message("test event", json.dumps(event), ())

    def no_json(self) -> Message:
        """Text that is none."""
        texts = ("{{workflow.name}} is no JSON", "{'bucket': 1}", '{"bucket": "a", "obj', "{{=1+}}", "---\n&a [*a]")
        return Message("no JSON", self._random.choice(texts), (failed("invalid_task", None),))

    def no_object(self) -> Message:
        """JSON, but not an object."""
        body = self._random.choice(("[]", '["{{workflow.uid}}"]', "7", "null", '"text"', "true"))
        return Message("no JSON object", body, (failed("invalid_task", None),))

    def wrong_type(self) -> Message:
        """A field has a value that is not allowed."""
        wrong: dict[str, Any] = self._random.choice(
            (
                {"fps": "banana"},
                {"fps": self._hostile()},
                {"max_frames": 1.5},
                {"max_frames": -1},
                {"priority": 10},
                {"priority": -1},
                {"priority": 2.5},
                {"priority": 1e300},
                {"priority": "9"},
                {"priority": [9]},
                {"force": "true"},
                {"outputs": "frames"},
                {"labels": {"a": 1}},
                {"start_seconds": 5, "end_seconds": 2},
                {"start_seconds": 1000},
                {"bucket": None},
                {"object": 7},
                {"id": ["mine"]},
            )
        )
        key = None if {"bucket", "object"} & set(wrong) else CLIP_KEY
        return self._bad("wrong type", "invalid_task", wrong, key=key)

    def unknown_field(self) -> Message:
        """A field that no task has."""
        name = self._random.choice(("fsp", "max-frames", "Bucket", *HOSTILE_TEXTS[:-2]))
        return self._bad("unknown field", "invalid_task", {name: 1})

    def missing(self) -> Message:
        """There is no such object."""
        key = f"{self._random.randrange(1000)}/{MISSING_KEY}"
        return self._bad("missing object", "not_found", {"object": key}, key=key)

    def text(self) -> Message:
        """The object is no video."""
        return self._bad("text as video", "not_a_video", {"object": TEXT_KEY}, key=TEXT_KEY)

    def denied(self) -> Message:
        """The object lies outside the allowed sources."""
        bucket = self._random.choice((self._results, f"{self._videos}-2", "elsewhere"))
        key = self._random.choice((CLIP_KEY, "reelscan/ledger/clock", self._hostile()))
        return self._bad("denied", "access_denied", {"bucket": bucket, "object": key}, key=key)

    def hostile(self) -> Message:
        """Texts that mean something to Argo, a shell or YAML, in a task that can be done."""
        start = self._random.randrange(90)
        key, token = self._random.choice(HOSTILE_KEYS), self._hostile()
        fields = {"object": key, "id": token, "start_seconds": start / FPS, "max_frames": 2}
        return Message("hostile", self._body(fields), (succeeded(range(start, start + 2), key, token),))

    def hostile_missing(self) -> Message:
        """The same in one that can't."""
        key, token = f"no/{self._random.choice(HOSTILE_KEYS)}", self._hostile()
        return self._bad("hostile and missing", "not_found", {"object": key, "id": token}, key=key, token=token)

    def deep(self) -> Message:
        """Lists in lists."""
        lists = "[" * 5000 + "]" * 5000
        body = self._random.choice((lists, '{"labels": ' + lists + "}"))
        return Message("deep", body, (failed("invalid_task", None),))

    def huge(self) -> Message:
        """Nearly as long as a message may be."""
        task = {"max_frames": 2, "start_seconds": self._random.randrange(90) / FPS}
        padded = self._body(task).removesuffix("}")
        start = round(task["start_seconds"] * FPS)
        token, labels = "{{=1+}}" * (HUGE_BYTES // 7), [f"{number:0120}" for number in range(HUGE_BYTES // 124)]
        return self._random.choice(
            (
                Message("huge", padded.ljust(HUGE_BYTES) + "}", (succeeded(range(start, start + 2)),)),
                self._bad("huge", "invalid_task", {"id": token}),
                self._bad("huge", "invalid_task", {"labels": labels}),
            )
        )

    def _keep(self, kind: str, options: dict[str, Any], frames: range) -> Message:
        token = f"ticket {self._random.randrange(10**6)}"
        made = Message(kind, self._body({"id": token, **options}), (succeeded(frames, token=token),))
        self._good.append(made)
        return made

    def _bad(
        self, kind: str, code: str, fields: dict[str, Any], key: str | None = CLIP_KEY, token: str | None = None
    ) -> Message:
        return Message(kind, self._body(fields), (failed(code, key, token),))

    def _notification(self, kind: str, records: list[tuple[dict[str, Any], Expectation]]) -> Message:
        body = json.dumps({"Records": [of_one for of_one, _ in records]})
        return Message(kind, body, tuple(expectation for _, expectation in records))

    def _body(self, fields: dict[str, Any]) -> str:
        return json.dumps({"bucket": self._videos, "object": CLIP_KEY, **fields})

    def _hostile(self) -> str:
        return self._random.choice(HOSTILE_TEXTS)


def _brief(key: str) -> Expectation:
    return succeeded(range(DEFAULT_MAX_FRAMES), key)


SHARES: dict[str, float] = {
    "good": 40, "several chunks": 8, "duplicate": 8, "resent": 6, "notification": 6, "notification with a bad one": 5,
    "test event": 3, "no JSON": 2, "no JSON object": 2, "wrong type": 3, "unknown field": 2, "missing object": 2,
    "text as video": 2, "denied": 2, "hostile": 5, "hostile and missing": 2, "deep": 1, "huge": 1,
}  # fmt: skip
"""How much of the messages each kind is, of 100."""
_AGAIN = ("duplicate", "resent")
MAKERS: dict[str, Callable[[Traffic], Message]] = {
    "good": Traffic.good,
    "several chunks": Traffic.several_chunks,
    "notification": Traffic.notification,
    "notification with a bad one": Traffic.notification_with_a_bad_one,
    "test event": Traffic.test_event,
    "no JSON": Traffic.no_json,
    "no JSON object": Traffic.no_object,
    "wrong type": Traffic.wrong_type,
    "unknown field": Traffic.unknown_field,
    "missing object": Traffic.missing,
    "text as video": Traffic.text,
    "denied": Traffic.denied,
    "hostile": Traffic.hostile,
    "hostile and missing": Traffic.hostile_missing,
    "deep": Traffic.deep,
    "huge": Traffic.huge,
}
