from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steps.aggregate import Summary, aggregate
from steps.completed import (
    INLINE_BYTES,
    MAX_BYTES,
    Completed,
    StepError,
    completed_from_error,
    completed_from_summary,
)
from steps.errors import ERROR_CODES, InvalidTaskError, NotAVideoError, StorageError
from steps.options import OUTPUTS
from steps.plan import Plan
from steps.results.missing import MissingRange
from steps.settings import Settings
from steps.shards import write_chunk_error
from steps.store import FolderStore
from steps.task import Received, parse_message
from tests.steps.runs import detections_of, make_run, pts_of, time_of, write_shard, write_shards

RECEIVED_AT = datetime(2026, 5, 1, 9, 30, 0, 123456, tzinfo=UTC)
COMPLETED_AT = RECEIVED_AT + timedelta(seconds=19)
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")

# The example of the contract, with the fields and their order.
CONTRACT = json.loads(
    """
    {"version": 1, "task_id": "...", "attempt": 1, "id": "...", "status": "partial",
     "task": {"bucket": "...", "object": "..."}, "options": {"fps": 5}, "model": {"name": "ssd", "version": 1},
     "workflow": "task-...", "run": "...", "received_at": "...", "completed_at": "...",
     "video": {"width": 768, "height": 432, "duration_seconds": 139.4, "frames": 1394, "codec": "h264"},
     "frames": {"planned": 697, "analysed": 695, "missing": [{"start_frame": 10, "end_frame": 12, "code": "x"}]},
     "detections_by_label": {"person": 402}, "objects_by_label": {"person": 3},
     "results": "s3://BUCKET/PREFIX/RUN/", "files": {"frames": "frames.jsonl.gz"}, "frame_records": [],
     "seconds": {"plan": 0.4, "detect": 31.2, "aggregate": 0.9}, "wall_seconds": 19.0, "error": null}
    """
)


def receive(**fields: Any) -> Received:
    body = json.dumps({"bucket": "videos", "object": "some/video.mp4", **fields}).encode()
    (received,) = parse_message(body, "message-1", Settings())
    assert received.error is None
    return received


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


@pytest.fixture
def plan(store: FolderStore) -> Plan:
    return make_run(store, [[0, 1, 2, 3], [4, 5]])


@pytest.fixture
def partial(store: FolderStore, plan: Plan) -> Summary:
    write_shards(store, plan, missing={2, 3})
    return aggregate(store, plan, OUTPUTS)


def completed_of(summary: Summary, store: FolderStore, received: Received | None = None) -> Completed:
    return completed_from_summary(
        received or receive(), summary, store, received_at=RECEIVED_AT, completed_at=COMPLETED_AT, workflow="task-x"
    )


class TestContract:
    def test_a_message_has_the_contract_s_fields_in_its_order(self, store: FolderStore, partial: Summary) -> None:
        message = json.loads(completed_of(partial, store, receive(id="mine")).to_bytes())

        assert list(message) == list(CONTRACT)
        for name in ("task", "model", "video", "frames", "seconds"):
            assert list(message[name]) == list(CONTRACT[name]), name
        assert list(message["frames"]["missing"][0]) == list(CONTRACT["frames"]["missing"][0])

    def test_a_partial_result(self, store: FolderStore, partial: Summary) -> None:
        message = json.loads(completed_of(partial, store, receive(id="mine", fps=12.5)).to_bytes())

        assert message["version"] == 1
        assert (message["task_id"], message["attempt"], message["id"]) == ("message-1", 1, "mine")
        assert message["status"] == "partial"
        assert message["task"] == {"bucket": "videos", "object": "some/video.mp4"}
        assert message["options"] == {
            "fps": 12.5, "start_seconds": 0, "end_seconds": None, "max_frames": None, "min_score": 0.5,
            "labels": None, "model": None, "chunk_seconds": "auto", "outputs": list(OUTPUTS), "force": False,
            "priority": 0,
        }  # fmt: skip
        assert message["model"] == {"name": "ssd", "version": 3}
        assert message["workflow"] == "task-x"
        assert message["received_at"] == "2026-05-01T09:30:00.123456Z"
        assert message["completed_at"] == "2026-05-01T09:30:19.123456Z"
        assert message["video"] == {
            "width": 640, "height": 360, "duration_seconds": time_of(6), "frames": 6, "codec": "h264"
        }  # fmt: skip
        assert message["frames"] == {
            "planned": 6,
            "analysed": 4,
            "missing": [{"start_frame": 2, "end_frame": 3, "code": "not_decodable"}],
        }
        assert message["detections_by_label"] == partial.detections_by_label
        assert message["objects_by_label"] is None
        assert message["results"] == store.url
        assert message["frame_records"] == [
            {"frame": frame, "time_seconds": time_of(frame), "pts": pts_of(frame), "detections": detections_of(frame)}
            for frame in (0, 1, 4, 5)
        ]
        assert message["seconds"] == partial.seconds
        assert message["wall_seconds"] == 19.0
        assert message["error"] is None

    def test_files_are_those_that_this_task_asked_for(self, store: FolderStore, partial: Summary) -> None:
        completed = completed_of(partial, store, receive(outputs=["coco"]))

        assert completed.files == {"coco": "coco.json"}

    def test_a_run_without_any_frame_failed_with_its_chunks_code(self, store: FolderStore, plan: Plan) -> None:
        for chunk in plan.chunks:
            write_chunk_error(store, plan, chunk, "model_unavailable", "the server is gone")
        message = json.loads(completed_of(aggregate(store, plan, OUTPUTS), store).to_bytes())

        assert list(message) == list(CONTRACT)
        assert message["status"] == "failed"
        assert message["error"] == {"code": "model_unavailable", "message": "the server is gone", "step": "detect"}
        assert message["frames"]["missing"] == [{"start_frame": 0, "end_frame": 5, "code": "model_unavailable"}]
        assert (message["results"], message["files"], message["frame_records"]) == (None, {}, [])

    def test_a_task_that_failed_before_its_plan_knows_only_itself(self) -> None:
        error = StepError.of(NotAVideoError("s3://videos/some/video.mp4: is text"), "plan")
        completed = completed_from_error(
            receive(id="mine"), error, received_at=RECEIVED_AT, completed_at=COMPLETED_AT, attempt=2
        )
        message = json.loads(completed.to_bytes())

        assert list(message) == list(CONTRACT)
        assert (message["status"], message["attempt"], message["id"]) == ("failed", 2, "mine")
        assert message["error"] == {
            "code": "not_a_video", "message": "s3://videos/some/video.mp4: is text", "step": "plan"
        }  # fmt: skip
        assert message["options"]["fps"] == 5
        unknown = ("model", "workflow", "run", "video", "frames", "detections_by_label", "results", "seconds")
        assert {message[name] for name in unknown} == {None}
        assert (message["files"], message["frame_records"]) == ({}, [])

    def test_a_task_that_failed_after_its_plan_tells_of_the_video(self, plan: Plan) -> None:
        error = StepError.make("timeout", "too slow", "detect")
        completed = completed_from_error(receive(), error, received_at=RECEIVED_AT, plan=plan)

        assert completed.run == plan.run
        assert completed.video is not None
        assert completed.video.codec == "h264"
        assert completed.frames is not None
        assert (completed.frames.planned, completed.frames.analysed) == (6, 0)
        assert completed.frames.missing == [MissingRange(start_frame=0, end_frame=5, code="timeout")]

    def test_a_message_that_is_no_task_is_reported_all_the_same(self) -> None:
        (received,) = parse_message(b"not json", "message-1", Settings())
        assert received.error is not None
        completed = completed_from_error(
            received, StepError.of(received.error, "plan"), received_at=RECEIVED_AT, completed_at=COMPLETED_AT
        )
        message = json.loads(completed.to_bytes())

        assert (message["task"], message["options"], message["id"]) == (None, None, None)
        assert message["error"]["code"] == "invalid_task"

    def test_a_task_that_is_wrong_is_returned_with_what_can_be_read_of_it(self) -> None:
        body = json.dumps({"bucket": "videos", "object": "a.mp4", "id": "mine", "fpss": 3}).encode()
        (received,) = parse_message(body, "message-1", Settings())
        assert isinstance(received.error, InvalidTaskError)
        completed = completed_from_error(received, StepError.of(received.error, "plan"), received_at=RECEIVED_AT)

        assert completed.id == "mine"
        assert completed.task is not None
        assert (completed.task.bucket, completed.task.object) == ("videos", "a.mp4")
        assert completed.options is None

    def test_times_are_utc_whatever_zone_they_came_in(self) -> None:
        local = RECEIVED_AT.astimezone(timezone(timedelta(hours=5, minutes=30)))
        completed = completed_from_error(
            receive(), StepError.make("internal", "x", "plan"), received_at=local, completed_at=local
        )

        assert completed.received_at == completed.completed_at == "2026-05-01T09:30:00.123456Z"

    def test_a_time_without_a_zone_is_refused(self) -> None:
        with pytest.raises(ValueError, match="time zone"):
            completed_from_error(
                receive(),
                StepError.make("internal", "x", "plan"),
                received_at=RECEIVED_AT.replace(tzinfo=None),
                completed_at=COMPLETED_AT.replace(tzinfo=None),
            )

    def test_a_clock_that_was_set_back_gives_no_negative_time(self) -> None:
        completed = completed_from_error(
            receive(), StepError.make("internal", "x", "plan"), received_at=COMPLETED_AT, completed_at=RECEIVED_AT
        )

        assert completed.wall_seconds == 0


class TestErrors:
    @pytest.mark.parametrize("code", ERROR_CODES)
    def test_a_code_of_the_contract_is_kept(self, code: str) -> None:
        assert StepError.make(code, "x", "plan").code == code

    @pytest.mark.parametrize("code", ["", "exit status 137", "NotFound"])
    def test_any_other_code_is_internal(self, code: str) -> None:
        assert StepError.make(code, "x", "plan").code == "internal"

    def test_a_message_is_one_line_of_bounded_length(self) -> None:
        error = StepError.make("internal", "one\ntwo\r\n" + "x" * 100_000, "plan")

        assert error.message.startswith("one two xxx")
        assert len(error.message) == 2000


class TestSize:
    def many_frames(self, store: FolderStore, frames: int) -> Completed:
        plan = make_run(store, [list(range(frames))])
        write_shard(store, plan, plan.chunks[0])
        return completed_of(aggregate(store, plan, ["frames"]), store)

    def test_frame_records_are_inline_just_below_200_kb_and_absent_above(self, tmp_path: Path) -> None:
        # The number of frames at which the message stops to fit is found by halving.
        fits, exceeds = 1, 4000
        while exceeds - fits > 1:
            middle = (fits + exceeds) // 2
            completed = self.many_frames(FolderStore(tmp_path / str(middle)), middle)
            if completed.frame_records is None:
                exceeds = middle
            else:
                fits = middle
        inline = self.many_frames(FolderStore(tmp_path / "fits"), fits)
        absent = self.many_frames(FolderStore(tmp_path / "exceeds"), exceeds)

        assert inline.frame_records is not None
        assert len(inline.frame_records) == fits
        # A frame takes up to 370 bytes.
        assert INLINE_BYTES - 400 < len(inline.to_bytes()) < INLINE_BYTES
        message = json.loads(absent.to_bytes())
        assert "frame_records" not in message
        assert list(message) == [name for name in CONTRACT if name != "frame_records"]
        assert len(absent.to_bytes()) < 5000

    def test_ranges_that_do_not_fit_are_counted(self, store: FolderStore) -> None:
        plan = make_run(store, [list(range(6000))])
        write_shards(store, plan, missing=set(range(0, 6000, 2)))
        message = json.loads(completed_of(aggregate(store, plan, ["frames"]), store).to_bytes())

        assert message["frames"]["planned"] == 6000
        assert len(message["frames"]["missing"]) == 1000
        assert message["frames"]["missing_not_listed"] == 2000

    def test_the_same_message_gives_the_same_bytes_also_when_read_back(
        self, store: FolderStore, partial: Summary
    ) -> None:
        completed = completed_of(partial, store)

        assert completed.to_bytes() == completed.to_bytes()
        assert Completed.from_bytes(completed.to_bytes()) == completed
        assert Completed.from_bytes(completed.to_bytes()).to_bytes() == completed.to_bytes()

    def test_the_largest_task_still_fits(self, store: FolderStore, plan: Plan) -> None:
        settings = Settings(max_message_bytes=1 << 20)
        fields = {
            "bucket": "videos",
            "object": "\uffff" * 341,
            "id": "\ufffe" * 85,
            "labels": ["\U0001f6a6" * 100 + str(number) for number in range(1000)],
        }
        (received,) = parse_message(json.dumps(fields, ensure_ascii=False).encode(), "m" * 36, settings)
        assert received.error is None
        missing = [
            MissingRange(start_frame=10**9 + n, end_frame=10**9 + n, code="model_unavailable") for n in range(1000)
        ]
        labels = {"\ufffe" * 128 + str(number): 10**9 + number for number in range(1000)}
        write_shards(store, plan)
        summary = aggregate(store, plan, OUTPUTS)
        summary = summary.model_copy(
            update={
                "detections_by_label": labels,
                "frames": summary.frames.model_copy(update={"missing": missing, "missing_ranges": 10**6}),
            }
        )
        text = completed_of(summary, store, received).to_bytes().decode()
        message = json.loads(text)

        assert len(text.encode()) <= MAX_BYTES
        assert not NOT_XML.search(text)
        assert (message["id"], message["task"]["object"]) == (fields["id"], fields["object"])
        assert len(message["frames"]["missing"]) + message["frames"]["missing_not_listed"] == 10**6
        # The most frequent ones are those that stay.
        assert sorted(message["detections_by_label"].values()) == [10**9 + number for number in range(900, 1000)]
        assert "labels" not in message["options"]
        assert message["options"]["fps"] == 5

    @given(
        sender_id=st.text(max_size=64),
        key=st.text(min_size=1, max_size=256),
        reason=st.text(alphabet=st.characters(), max_size=5000),
    )
    def test_any_text_arrives_as_it_was_and_can_be_sent(self, sender_id: str, key: str, reason: str) -> None:
        received = Received("t", "{}", id=sender_id, place=("videos", key))
        completed = completed_from_error(received, StepError.make("internal", reason, "plan"), received_at=RECEIVED_AT)
        text = completed.to_bytes().decode()

        assert not NOT_XML.search(text)
        assert json.loads(text)["id"] == sender_id
        assert json.loads(text)["task"]["object"] == key
        assert json.loads(text)["error"]["message"] == completed.error.message  # type: ignore[union-attr]

    @pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b'{"version": 2}', b"\xff"])
    def test_an_entry_that_is_no_message_is_a_storage_error(self, data: bytes) -> None:
        with pytest.raises(StorageError, match="no completed message"):
            Completed.from_bytes(data)
