from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.errors import AccessDeniedError, InvalidTaskError, UsageError
from steps.queues import escape_for_sqs
from steps.settings import Settings
from steps.task import Received, Task, check_source, make_task, parse_message

SETTINGS = Settings()
PLACE = {"bucket": "videos", "object": "some/video.mp4"}
HOSTILE_KEYS = (
    "../../etc/passwd",
    "/etc/passwd",
    "a//b",
    "./a",
    "{{workflow.name}}",
    "{{=sprig.env('HOME')}}",
    "$(reboot)",
    "`reboot`",
    "'; rm -rf / #",
    '"quoted"',
    "two\nlines\r\n",
    "tab\tand\x00nul\x1b[31m",
    "ümlaut/日本語/🚦.mp4",
    "e\u0301 \u202e gpj.exe",
    "\uffff\ufffe",
    " leading and trailing ",
    "percent%20and+plus",
    "x" * 1024,
    "🚦" * 256,
)


def message(**fields: Any) -> bytes:
    return json.dumps(fields).encode()


def parse_one(body: bytes, settings: Settings = SETTINGS) -> Received:
    (received,) = parse_message(body, "message-1", settings)
    return received


def error_of(body: bytes, settings: Settings = SETTINGS) -> str:
    received = parse_one(body, settings)
    assert isinstance(received.error, InvalidTaskError)
    assert received.task is None
    return str(received.error)


def notification(*records: Any) -> bytes:
    return json.dumps({"Records": list(records)}).encode()


def record(key: Any = "some/video.mp4", bucket: Any = "videos", event: Any = "ObjectCreated:Put") -> dict[str, Any]:
    """A record as S3 writes it."""
    return {
        "eventVersion": "2.1",
        "eventSource": "aws:s3",
        "awsRegion": "us-east-1",
        "eventTime": "2026-05-01T09:30:00.000Z",
        "eventName": event,
        "s3": {
            "s3SchemaVersion": "1.0",
            "bucket": {"name": bucket, "arn": f"arn:aws:s3:::{bucket}"},
            "object": {"key": key, "size": 1024, "eTag": "d41d8cd98f00b204e9800998ecf8427e", "sequencer": "0A1B"},
        },
    }


class TestTasks:
    def test_a_task_is_read_with_its_options_and_the_sender_s_token(self) -> None:
        received = parse_one(message(**PLACE, id="mine", fps=2, labels=["person"]))

        assert received.error is None
        assert received.task is not None
        assert (received.task_id, received.id, received.place) == ("message-1", "mine", ("videos", "some/video.mp4"))
        assert received.task.url == "s3://videos/some/video.mp4"
        assert (received.task.options.fps, received.task.options.labels) == (2, ["person"])
        assert received.task.given_options == {"fps": 2, "labels": ["person"]}

    @pytest.mark.parametrize("sender_id", ["", "x" * 256, "🚦" * 64, "\x00\n", "{{x}}", None])
    def test_the_sender_s_token_is_kept_as_it_is(self, sender_id: str | None) -> None:
        received = parse_one(message(**PLACE, id=sender_id))

        assert received.task is not None
        assert received.task.id == received.id == sender_id

    def test_a_task_can_be_sent_again_as_it_came(self) -> None:
        task = parse_one(message(**PLACE, id="ü", fps=2.5, labels=["ü"], outputs=["coco"])).task
        assert task is not None

        assert parse_one(task.to_message().encode()).task == task

    def test_what_the_message_does_not_name_comes_from_the_deployment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REELSCAN_FPS", "1.5")
        task = parse_one(message(**PLACE)).task

        assert task is not None
        assert task.options.fps == 1.5
        assert task.given_options == {}

    def test_a_deployment_that_is_wrong_is_not_the_task_s_fault(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("REELSCAN_FPS", "fast")

        with pytest.raises(UsageError, match="REELSCAN_FPS"):
            parse_one(message(**PLACE))

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_a_hostile_key_is_nothing_but_a_key(self, key: str) -> None:
        received = parse_one(message(bucket="videos", object=key))

        assert received.task is not None
        assert received.task.object == key
        assert received.place == ("videos", key)

    @pytest.mark.parametrize("bucket", ["videos", "my.videos-2", "arn:aws:s3:eu-west-1:123456789012:accesspoint/x"])
    def test_buckets_and_access_points_are_taken(self, bucket: str) -> None:
        assert parse_one(message(bucket=bucket, object="x")).task is not None


class TestMalformed:
    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            (b"", "not JSON"),
            (b"   ", "not JSON"),
            (b"not json", "not JSON"),
            (b"{", "not JSON"),
            (b'{"bucket": "videos", "object": "x"} trailing', "not JSON"),
            (b"{'bucket': 'videos'}", "not JSON"),
            (b'\xef\xbb\xbf{"bucket": "videos", "object": "x"}', "not JSON"),
            (b'{"bucket": "videos", "object": "x", "fps": NaN}', "not JSON.*NaN"),
            (b'{"bucket": "videos", "object": "x", "fps": Infinity}', "not JSON.*Infinity"),
            (b'{"bucket": "videos", "object": "x", "fps": ' + b"9" * 5000 + b"}", "not JSON"),
            (b"[" * 20_000, "nested too deeply"),
            (b'{"a":' * 10_000, "nested too deeply"),
            (b"\xff\xfe", "not UTF-8: byte 0 is 0xff"),
            (b'{"bucket": "videos", "object": "\xc3"}', "not UTF-8"),
            ("{}".encode("utf-16"), "not UTF-8"),
            (b"null", "a JSON NoneType"),
            (b"[]", "a JSON list"),
            (b'"text"', "a JSON str"),
            (b"5", "a JSON int"),
            (b"true", "a JSON bool"),
            (b"{}", "bucket"),
            (message(bucket="videos"), "object"),
            (message(object="x"), "bucket"),
            (message(bucket=None, object="x"), "bucket"),
            (message(bucket=5, object="x"), "bucket"),
            (message(bucket=["videos"], object="x"), "bucket"),
            (message(bucket={"name": "videos"}, object="x"), "bucket"),
            (message(bucket="", object="x"), "bucket"),
            (message(bucket="a", object="x"), "bucket"),
            (message(bucket="../videos", object="x"), "bucket"),
            (message(bucket="videos\n", object="x"), "bucket"),
            (message(bucket="vid eos", object="x"), "bucket"),
            (message(bucket="x" * 256, object="x"), "bucket"),
            (message(bucket="{{videos}}", object="x"), "bucket"),
            (message(bucket="videos", object=""), "object"),
            (message(bucket="videos", object=None), "object"),
            (message(bucket="videos", object=5), "object"),
            (message(bucket="videos", object="x" * 1025), "object: 1025 bytes, allowed are 1024"),
            (message(bucket="videos", object="ü" * 513), "object: 1026 bytes, allowed are 1024"),
            (b'{"bucket": "videos", "object": "\\ud800"}', "object: .*"),
            (message(**PLACE, id=5), "id"),
            (message(**PLACE, id="x" * 257), "id: 257 bytes, allowed are 256"),
            (message(**PLACE, id="🚦" * 65), "id: 260 bytes, allowed are 256"),
            (message(**PLACE, id={}), "id"),
            (b'{"bucket": "videos", "object": "x", "id": "\\udfff"}', "id: .*"),
            (message(**PLACE, fpss=5), "'fpss' is not a known field; known are"),
            (message(**PLACE, given_options={}), "'given_options' is not a known field"),
            (message(**PLACE, options={"fps": 5}), "'options' is not a known field"),
            (message(**PLACE, Bucket="videos"), "'Bucket' is not a known field"),
            (message(**PLACE, **{"x" * 5000: 1}), "'xxx.*' is not a known field"),
            (message(**PLACE, fps="5"), "fps: '5'"),
            (message(**PLACE, fps=-1), "fps: -1"),
            (b'{"bucket": "videos", "object": "x", "fps": 1e999}', "fps: inf"),
            (message(**PLACE, labels=["\ud800"]), "labels"),
            (message(**PLACE, outputs=["report"]), "outputs: 'report' cannot be written yet"),
        ],
    )
    def test_it_is_an_error_in_one_short_line(self, body: bytes, reason: str) -> None:
        text = error_of(body)

        assert re.search(reason, text), text
        assert "\n" not in text
        assert len(text) < 600
        assert parse_one(body).task_id == "message-1"

    def test_a_message_at_the_limit_is_read_and_one_above_is_not(self) -> None:
        body = message(**PLACE)
        settings = Settings(max_message_bytes=len(body))

        assert parse_one(body, settings).task is not None
        assert error_of(body + b" ", settings) == f"the message holds {len(body) + 1} bytes, allowed are {len(body)}"

    def test_64_kib_is_the_limit(self) -> None:
        body = message(**PLACE)

        assert parse_one(body.ljust(64 << 10)).task is not None
        assert "65537 bytes, allowed are 65536" in error_of(body.ljust((64 << 10) + 1))

    def test_what_can_be_read_of_a_wrong_task_is_told(self) -> None:
        received = parse_one(message(**PLACE, id="mine", fpss=5))

        assert (received.id, received.place) == ("mine", ("videos", "some/video.mp4"))

    @pytest.mark.parametrize(
        "fields", [{"id": 5}, {"id": "x" * 257}, {"object": "x" * 1025}, {"object": 5}, {"bucket": None}]
    )
    def test_what_cannot_be_taken_as_it_is_is_not_told(self, fields: dict[str, Any]) -> None:
        received = parse_one(message(**{**PLACE, **fields}))

        assert received.error is not None
        assert received.id is None
        if "id" not in fields:
            assert received.place is None


class TestNotifications:
    def test_a_notification_of_one_object_is_one_task(self) -> None:
        received = parse_one(notification(record()))

        assert received.task_id == "message-1"
        assert received.task == Task(**PLACE)
        assert parse_one(received.body.encode()).task == received.task

    def test_each_of_several_records_is_a_task_with_its_number(self) -> None:
        received = parse_message(notification(*(record(f"{name}.mp4") for name in "abc")), "message-1", SETTINGS)

        assert [(one.task_id, one.place) for one in received] == [
            ("message-1-0", ("videos", "a.mp4")),
            ("message-1-1", ("videos", "b.mp4")),
            ("message-1-2", ("videos", "c.mp4")),
        ]

    def test_a_record_that_is_broken_does_not_take_the_others_along(self) -> None:
        received = parse_message(notification(record("a"), {"broken": True}, record("c")), "message-1", SETTINGS)

        assert [one.error is None for one in received] == [True, False, True]
        assert [one.task_id for one in received] == ["message-1-0", "message-1-1", "message-1-2"]
        again = parse_one(received[1].body.encode())
        assert again.error is not None
        assert "is it an S3 event notification?" in str(again.error)

    @pytest.mark.parametrize("key", HOSTILE_KEYS)
    def test_a_key_is_decoded_from_the_form_s3_writes_it_in(self, key: str) -> None:
        received = parse_one(notification(record(urllib.parse.quote_plus(key))))

        assert received.task is not None
        assert received.task.object == key
        # The dead letter holds the key itself, and is sent through SQS.
        assert parse_one(escape_for_sqs(received.body).encode()).task == received.task

    @pytest.mark.parametrize(
        ("written", "key"),
        [("a+b", "a b"), ("a%2Bb", "a+b"), ("a%20b", "a b"), ("a%252B", "a%2B"), ("100%25", "100%"), ("50%", "50%")],
    )
    def test_a_key_is_decoded_once(self, written: str, key: str) -> None:
        received = parse_one(notification(record(written)))

        assert received.task is not None
        assert received.task.object == key

    @pytest.mark.parametrize(
        "event",
        [
            "ObjectCreated:Put",
            "ObjectCreated:CompleteMultipartUpload",
            "s3:ObjectCreated:Copy",
            "ObjectRestore:Completed",
        ],
    )
    def test_events_that_bring_an_object_are_tasks(self, event: str) -> None:
        assert parse_one(notification(record(event=event))).task is not None

    @pytest.mark.parametrize("event", ["ObjectRemoved:Delete", "ObjectRestore:Post", "ReducedRedundancyLostObject", ""])
    def test_other_events_are_no_tasks(self, event: str) -> None:
        assert "brings no new object; subscribe to ObjectCreated" in error_of(notification(record(event=event)))

    @pytest.mark.parametrize(
        "document",
        [
            {"Service": "Amazon S3", "Event": "s3:TestEvent", "Time": "2026-05-01T09:30:00.000Z", "Bucket": "videos"},
            {"Event": "s3:TestEvent"},
        ],
    )
    def test_s3_s_test_event_is_no_task(self, document: dict[str, str]) -> None:
        assert parse_message(json.dumps(document).encode(), "message-1", SETTINGS) == []

    @pytest.mark.parametrize(
        ("records", "reason"),
        [
            ([], "Records: holds 0, allowed is a list of 1 to 10"),
            ([record()] * 11, "Records: holds 11, allowed is a list of 1 to 10"),
            ({}, "Records: holds dict"),
            (None, "Records: holds NoneType"),
            ("text", "Records: holds str"),
            (5, "Records: holds int"),
        ],
    )
    def test_records_that_are_no_list_or_too_many_are_one_error(self, records: Any, reason: str) -> None:
        assert reason in error_of(json.dumps({"Records": records}).encode())

    @pytest.mark.parametrize(
        "broken",
        [
            None, 5, "text", [], {}, {"s3": {}}, {"eventName": "ObjectCreated:Put"},
            {**record(), "s3": None}, {**record(), "s3": []}, {**record(), "eventName": 5},
            record(key=None), record(key=5), record(key=["a"]), record(key={"a": 1}),
            record(bucket=None), record(bucket=5),
            record(key=""), record(key="%FF"), record(bucket="../x"), record(key="x" * 1025), record(key="\ud800"),
            {**record(), "s3": {"bucket": {"name": "videos"}}}, {**record(), "s3": {"object": {"key": "x"}}},
        ],
    )  # fmt: skip
    def test_a_record_without_an_object_is_an_error(self, broken: Any) -> None:
        text = error_of(notification(broken))

        assert "\n" not in text
        first, second = parse_message(notification(broken, record()), "message-1", SETTINGS)
        assert first.error is not None
        assert second.task is not None

    @pytest.mark.parametrize("depth", [100, 400, 900, 980, 990, 995, 1000, 5000])
    def test_a_record_nested_deeply_is_an_error_or_a_task(self, depth: int) -> None:
        nested = '{"broken":' + "[" * depth + "]" * depth + "}"
        body = f'{{"Records": [{json.dumps(record())}, {nested}]}}'.encode()

        received = parse_message(body, "message-1", SETTINGS)

        assert any(one.error is not None for one in received)


class TestSources:
    @pytest.mark.parametrize(
        ("allowed", "bucket", "key", "fits"),
        [
            ("s3://*", "any", "thing", True),
            ("s3://videos/*", "videos", "a", True),
            ("s3://videos/*", "videos2", "a", False),
            ("s3://videos*", "videos2", "a", True),
            ("s3://videos", "videos", "a/b", True),
            ("s3://videos", "videos2", "a", False),
            ("s3://videos/", "videos", "a", True),
            ("s3://videos/in/*", "videos", "in/a", True),
            ("s3://videos/in/*", "videos", "inside", False),
            ("s3://videos/in*", "videos", "inside", True),
            ("s3://videos/in", "videos", "in/a", True),
            ("s3://videos/in", "videos", "in", True),
            ("s3://videos/in", "videos", "inside", False),
            ("s3://a/*,s3://b/x*", "b", "xyz", True),
            ("s3://a/*,s3://b/x*", "b", "abc", False),
            ("s3://videos/*", "Videos", "a", False),
        ],
    )
    def test_only_what_the_deployment_allows_is_read(self, allowed: str, bucket: str, key: str, fits: bool) -> None:
        settings = Settings(allowed_sources=allowed)  # type: ignore[arg-type]

        if fits:
            check_source(bucket, key, settings)
        else:
            with pytest.raises(AccessDeniedError, match="REELSCAN_ALLOWED_SOURCES"):
                check_source(bucket, key, settings)

    @pytest.mark.parametrize("results", ["s3://store/results", "s3://store/results/"])
    @pytest.mark.parametrize("key", ["results/RUN/frames.jsonl.gz", "results/", "results"])
    def test_results_are_no_input(self, results: str, key: str) -> None:
        settings = Settings(results=results)
        received = parse_one(message(bucket="store", object=key), settings)

        assert isinstance(received.error, AccessDeniedError)
        assert received.place == ("store", key)
        assert "among the results" in str(received.error)

    def test_what_lies_beside_the_results_is_read(self) -> None:
        check_source("store", "results2/video.mp4", Settings(results="s3://store/results"))
        check_source("store", "video.mp4", Settings(results="/a/folder"))

    def test_a_whole_bucket_of_results_is_no_input(self) -> None:
        with pytest.raises(AccessDeniedError):
            check_source("store", "video.mp4", Settings(results="s3://store"))

    def test_what_is_refused_is_shown_without_control_characters(self) -> None:
        with pytest.raises(AccessDeniedError) as caught:
            make_task({"bucket": "other", "object": "\x1b[31mred\x07"}, Settings(allowed_sources=("s3://videos/*",)))

        assert str(caught.value).isprintable()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
_FIELDS = st.dictionaries(st.sampled_from(["bucket", "object", "id", "fps", "Records", "Event"]), _JSON)
_S3 = st.fixed_dictionaries(
    {
        "bucket": st.fixed_dictionaries({"name": st.just("videos") | _JSON}),
        "object": st.fixed_dictionaries({"key": st.text() | _JSON}),
    }
)
_RECORD = st.fixed_dictionaries({}, optional={"eventName": st.just("ObjectCreated:Put") | _JSON, "s3": _S3 | _JSON})


@given(
    st.binary()
    | _JSON.map(lambda value: json.dumps(value).encode())
    | _FIELDS.map(lambda value: json.dumps(value).encode())
    | st.lists(_RECORD, max_size=4).map(lambda value: json.dumps({"Records": value}).encode())
)
def test_whatever_arrives_is_tasks_and_errors_that_can_be_sent_again(body: bytes) -> None:
    received = parse_message(body, "message-1", SETTINGS)

    assert len({one.task_id for one in received}) == len(received)
    for one in received:
        assert (one.task is None) != (one.error is None)
        if one.error is not None:
            assert "\n" not in str(one.error)
            assert len(str(one.error)) < 1000
        again = parse_message(escape_for_sqs(one.body).encode(), "message-1", SETTINGS)
        assert [same.task for same in again] == [one.task]
