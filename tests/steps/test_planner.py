"""What a plan says of a video, and how it cuts it."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from steps import planner
from steps.errors import InvalidTaskError, NotAVideoError, NotFoundError, StorageError, TooLargeError
from steps.index import VideoIndex, read_index
from steps.options import Options
from steps.plan import PLAN_KEY, Plan, Segment, SourceIdentity, load_segments, run_digest
from steps.planner import FREE_START_BYTES, load_plan, make_plan
from steps.source import FileSource, Source
from steps.store import FolderStore
from tests.media.library import ClipLibrary
from tests.media.patches import edit_list, edit_moov, replace_box
from tests.media.reference import reference_sample
from tests.media.writer import patch_packets
from tests.steps.analysis import WHOLE, Analyst

FACTS: dict[str, dict[str, Any]] = {
    "h264_closed_gop.mp4": {"frames": 301, "frames_from_header": 301, "fps": 30.0, "keyframes": 11, "width": 320},
    "h264_open_gop.ts": {"frames": 301, "frames_from_header": None, "container": "mpegts", "first_pts": 6000},
    "h264_edit_list.mp4": {"frames": 226, "frames_from_header": 301, "not_displayed_packets": 15},
    "h264_truncated.mov": {"frames": 201, "frames_from_header": 301, "duration_seconds_from_header": 301 / 30},
    "h264_from_mid_gop.ts": {"frames": 241, "not_displayed_packets": 15},
    "h264_delayed.mp4": {"frames": 301, "first_pts": 30720},
    "h264_one_frame.mp4": {"frames": 1, "fps": 0.0, "duration_seconds": 0.0},
    "h264_rotation_90.mp4": {"width": 320, "height": 180, "rotation_degrees": 270, "mirrored": False},
    "h264_rotation_270.mp4": {"width": 320, "height": 180, "rotation_degrees": 90, "mirrored": False},
    "h264_rotation_180.mp4": {"width": 320, "height": 180, "rotation_degrees": 180, "mirrored": False},
    "h264_mirrored.mp4": {"width": 320, "height": 180, "rotation_degrees": 0, "mirrored": True},
    "h264_ntsc.mkv": {"fps": 29.970030, "fps_from_header": 30000 / 1001, "frames_from_header": None},
    "h264_fields.ts": {"frames": 60, "fps": 25.0, "fps_from_header": 50.0},
    "hevc_10_bit.mp4": {"codec": "hevc", "pixel_format": "yuv420p10le"},
    "vp8_alt_ref.webm": {"codec": "vp8", "frames": 190, "not_displayed_packets": 10},
    "vp9_live.webm": {"duration_seconds_from_header": None, "frames": 200, "duration_seconds": 6.666},
    "mpeg4_not_coded.avi": {"frames": 289, "frames_from_header": 301, "not_displayed_packets": 12},
    "av1.mp4": {"codec": "av1", "frames": 150},
}
ACCESS = {
    "h264_open_gop.mp4": ("seek", "pts"),
    "h264_open_gop.ts": ("splice", "pts"),
    "h264_ntsc.mkv": ("seek", "pts"),
    "mpeg4_b_frames.avi": ("seek", "pts"),
    "h264_edit_list_two_parts.mov": ("seek", "pts"),
    "h264_fields.ts": ("splice", "pts"),
    "h264_intra_refresh.ts": ("sequential", "pts"),
    "h264_fragmented.mp4": ("sequential", "pts"),
    "vp9_live.webm": ("sequential", "pts"),
    "h264_no_duration.mkv": ("sequential", "pts"),
    "h264_one_frame.mp4": ("sequential", "pts"),
    "h264_concatenated.ts": ("sequential", "displayed_pts"),
    "h264_earlier_second.ts": ("sequential", "displayed_pts"),
    "h264_b_frames.avi": ("sequential", "output_order"),
    "h264_raw.h264": ("sequential", "output_order"),
    "mpeg4_packed.avi": ("sequential", "output_order"),
}


def segments_of(analyst: Analyst, plan: Plan) -> list[list[Segment]]:
    return [load_segments(analyst.store, plan, chunk) for chunk in plan.chunks]


def plan_with(analyst: Analyst, path: Path, **changes: Any) -> Plan:
    """A plan under other settings."""
    other = dataclasses.replace(analyst, settings=analyst.settings.model_copy(update=changes))
    return other.plan(other.open(path), fps=0.0, chunk_seconds=1.0)


class TestFacts:
    @pytest.mark.parametrize("name", FACTS)
    def test_what_was_measured_stands_beside_what_the_header_claims(
        self, name: str, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        video = analyst.plan(analyst.open(clips.path(name))).video
        for field, expected in FACTS[name].items():
            found = getattr(video, field)
            assert found == (pytest.approx(expected, abs=2e-3) if isinstance(expected, float) else expected), field

    @pytest.mark.parametrize("name", ACCESS)
    def test_how_a_chunk_is_reached_depends_on_what_the_container_offers(
        self, name: str, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        plan = analyst.plan(analyst.open(clips.path(name)), fps=0.0, chunk_seconds=1.0)
        assert (plan.access, plan.identify_by) == ACCESS[name]
        assert (len(plan.chunks) == 1) == (plan.access == "sequential")

    def test_a_file_that_ends_too_early_says_so(self, clips: ClipLibrary, analyst: Analyst) -> None:
        warnings = analyst.plan(analyst.open(clips.path("h264_truncated.mov"))).video.warnings
        assert any("ends before 100 of the 301 frames" in warning for warning in warnings)

    @pytest.mark.parametrize("name", ["h264_closed_gop.mp4", "h264_no_duration.mkv"])
    def test_a_first_keyframe_that_is_spoilt_costs_its_group_alone(
        self, name: str, clips: ClipLibrary, analyst: Analyst, tmp_path: Path
    ) -> None:
        broken = tmp_path / name
        patch_packets(clips.path(name), broken, {0: lambda packet: packet[:4] + b"\xff" * (len(packet) - 4)})
        analysis = analyst.analyse(broken, fps=0.0, chunk_seconds=1.0)
        assert analysis.missing == list(range(30))
        assert list(analysis.numbers_read().values()) == list(range(30, 301))

    def test_progress_goes_up_to_all_bytes(self, clips: ClipLibrary, analyst: Analyst) -> None:
        told: list[tuple[int, int]] = []
        source = analyst.open(clips.path("h264_open_gop.ts"))
        make_plan(
            source, Options(), analyst.model, analyst.settings, analyst.store,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip
        size = source.identity.size
        assert told[-1] == (size, size)
        assert told == sorted(told)


class TestLimits:
    def test_a_longer_video_than_allowed_is_too_large(self, clips: ClipLibrary, analyst: Analyst) -> None:
        path = clips.path("h264_closed_gop.mp4")
        plan_with(analyst, path, max_duration_seconds=10.1)
        with pytest.raises(TooLargeError, match=r"lasts 10 s, allowed are 10 s \(REELSCAN_MAX_DURATION_SECONDS\)"):
            plan_with(analyst, path, max_duration_seconds=10.0)

    def test_more_frames_than_allowed_are_too_large(self, clips: ClipLibrary, analyst: Analyst) -> None:
        path = clips.path("h264_closed_gop.mp4")
        plan_with(analyst, path, max_video_frames=301)
        with pytest.raises(TooLargeError, match="more than 300 frames"):
            plan_with(analyst, path, max_video_frames=300)

    def test_no_more_chunks_than_allowed_are_cut(self, clips: ClipLibrary, analyst: Analyst) -> None:
        path = clips.path("h264_closed_gop.mp4")
        assert len(plan_with(analyst, path).chunks) == 11
        assert len(plan_with(analyst, path, max_chunks=3).chunks) <= 3
        assert len(plan_with(analyst, path, max_chunks=1).chunks) == 1

    @pytest.mark.parametrize(("share", "most"), [(0.2, 1), (0.05, 3), (0.01, 11)])
    def test_reading_the_start_for_each_chunk_stays_within_its_budget(
        self, share: float, most: int, clips: ClipLibrary, analyst: Analyst, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = _Object(FileSource(clips.path("h264_closed_gop.mp4")))
        again = int(share * source.identity.size)
        monkeypatch.setattr(planner, "read_index", _with_start(FREE_START_BYTES + again))
        plan = analyst.plan(source, fps=0.0, chunk_seconds=1.0)
        assert len(plan.chunks) <= most
        assert len(plan.chunks) == 11 or again * len(plan.chunks) <= 0.15 * source.identity.size or most == 1

    def test_a_local_file_has_no_such_budget(
        self, clips: ClipLibrary, analyst: Analyst, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(planner, "read_index", _with_start(1 << 30))
        source = analyst.open(clips.path("h264_closed_gop.mp4"))
        assert len(analyst.plan(source, fps=0.0, chunk_seconds=1.0).chunks) == 11

    def test_an_edit_list_that_shows_nothing_leaves_no_video(
        self, clips: ClipLibrary, analyst: Analyst, tmp_path: Path
    ) -> None:
        data = clips.path("h264_moov_at_end.mov").read_bytes()
        path = tmp_path / "nothing.mov"
        # Ten seconds of nothing, and then what lies behind the last frame.
        entries = [(10_000, -1), (1000, 15_360 * 20)]
        path.write_bytes(edit_moov(data, lambda moov: replace_box(moov, (b"trak", b"edts"), edit_list(entries))))
        with pytest.raises(NotAVideoError, match=r"nothing\.mov: an edit list cuts all of its frames away"):
            analyst.plan(analyst.open(path))


class _Object:
    """A file under the identity of an object, for which reading counts."""

    def __init__(self, file: Source) -> None:
        self.identity = file.identity.model_copy(update={"bucket": "videos", "key": "a.mp4"})
        self.read = file.read


def _with_start(bytes_to_open: int) -> Any:
    def read(*arguments: Any) -> VideoIndex:
        index = read_index(*arguments)
        index.header.bytes_to_open = bytes_to_open
        return index

    return read


class TestRange:
    @pytest.mark.parametrize(
        ("options", "text"),
        [
            ({"start_seconds": 10.5}, "no frame lies in the range from 10.5 s: "),
            ({"start_seconds": 11.0, "end_seconds": 12.0}, "no frame lies in the range from 11 s to 12 s: "),
            ({"start_seconds": 5.005, "end_seconds": 5.015, "fps": 0.0}, "no frame lies in the range from 5.005 s"),
            ({"end_seconds": 0.0005}, "no frame lies in the range from 0 s to 0.0005 s: "),
        ],
    )
    def test_a_range_without_frames_is_an_invalid_task_that_says_how_long_the_video_is(
        self, options: dict[str, Any], text: str, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        path = clips.path("h264_closed_gop.mp4")
        with pytest.raises(InvalidTaskError) as raised:
            analyst.plan(analyst.open(path), **options)
        assert str(raised.value).startswith(text)
        assert f"{path} lasts 10.0333 s; choose a range that holds a frame" in str(raised.value)

    def test_the_last_frame_alone_is_a_range(self, clips: ClipLibrary, analyst: Analyst) -> None:
        plan = analyst.plan(analyst.open(clips.path("h264_closed_gop.mp4")), fps=0.0, start_seconds=10.0)
        assert [(chunk.first_frame, chunk.last_frame) for chunk in plan.chunks] == [(300, 300)]

    def test_most_frames_are_the_first_ones(self, clips: ClipLibrary, analyst: Analyst) -> None:
        plan = analyst.plan(analyst.open(clips.path("h264_closed_gop.mp4")), fps=5.0, start_seconds=2.0, max_frames=4)
        frames = [frame for segments in segments_of(analyst, plan) for segment in segments for frame in segment.frames]
        assert frames == [60, 66, 72, 78]


class TestCutting:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        name=st.sampled_from(
            ["h264_open_gop.mp4", "h264_variable_rate.mkv", "h264_edit_list_two_parts.mov", "mpeg2_from_mid_gop.ts"]
        ),
        fps=st.sampled_from([0.0, 0.3, 1.0, 5.0, 12.5, 29.97]),
        start=st.floats(0, 4).map(lambda value: round(value, 3)),
        length=st.one_of(st.none(), st.floats(0.5, 6).map(lambda value: round(value, 3))),
        chunk_seconds=st.one_of(st.just("auto"), st.floats(0.05, 20)),
        most=st.one_of(st.none(), st.integers(1, 40)),
    )
    def test_the_chunks_hold_every_chosen_frame_once_and_in_order(
        self, name: str, fps: float, start: float, length: float | None, chunk_seconds: float | str, most: int | None,
        clips: ClipLibrary, analyst: Analyst,
    ) -> None:  # fmt: skip
        clip = clips[name]
        end = None if length is None else round(start + length, 3)
        expected = reference_sample(
            clip.reference,
            Fraction(repr(fps)),
            Fraction(repr(start)),
            None if end is None else Fraction(repr(end)),
            most,
        )

        options = {
            "fps": fps, "start_seconds": start, "end_seconds": end, "chunk_seconds": chunk_seconds, "max_frames": most,
        }  # fmt: skip
        if not expected:
            with pytest.raises(InvalidTaskError):
                analyst.plan(analyst.open(clip.path), **options)
            return
        plan = analyst.plan(analyst.open(clip.path), **options)

        chunks = segments_of(analyst, plan)
        segments = [segment for chunk in chunks for segment in chunk]
        assert [frame for segment in segments for frame in segment.frames] == [frame.ordinal for frame in expected]
        assert [pts for segment in segments for pts in segment.pts] == [frame.pts for frame in expected]
        assert plan.planned_frames == len(expected) == sum(chunk.frames for chunk in plan.chunks)
        at = 0
        for chunk, parts in zip(plan.chunks, chunks, strict=True):
            assert (chunk.first_frame, chunk.last_frame) == (parts[0].frames[0], parts[-1].frames[-1])
            assert chunk.table_offset == at
            assert 0 <= chunk.first_byte < chunk.last_byte <= plan.source.size
            at += chunk.table_length
        assert all(segment.key_pts is not None for chunk in chunks[1:] for segment in chunk)

    def test_a_chunk_is_as_long_as_was_asked_for_up_to_the_next_keyframe(
        self, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))
        assert [chunk.first_frame for chunk in analyst.plan(source, fps=0.0, chunk_seconds=2.0).chunks] == [
            0, 60, 120, 180, 240, 300,
        ]  # fmt: skip
        assert [chunk.first_frame for chunk in analyst.plan(source, fps=0.0, chunk_seconds=2.5).chunks] == [
            0, 90, 180, 270,
        ]  # fmt: skip
        assert len(analyst.plan(source, fps=0.0, chunk_seconds=WHOLE).chunks) == 1

    def test_chunks_are_cut_by_the_work_in_them_where_no_length_is_asked_for(
        self, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))

        def chunks(worker_seconds: float) -> int:
            plan = make_plan(
                source, Options(fps=0.0), analyst.model, analyst.settings, analyst.store,
                start_of_worker_seconds=worker_seconds,
            )  # fmt: skip
            return len(plan.chunks)

        assert chunks(10.0) == 1
        assert 1 < chunks(0.1) < 11
        assert chunks(0.001) == 11

    def test_known_damage_is_told_to_the_chunk_that_it_spoils_alone(self, clips: ClipLibrary, analyst: Analyst) -> None:
        plan = analyst.plan(analyst.open(clips.path("h264_broken_middle.ts")), fps=0.0, chunk_seconds=1.0)
        damaged = [
            chunk.name
            for chunk, segments in zip(plan.chunks, segments_of(analyst, plan), strict=True)
            if any(segment.damaged for segment in segments)
        ]
        assert damaged == ["90-142"]

    def test_whole_groups_between_two_frames_are_left_out(self, clips: ClipLibrary, analyst: Analyst) -> None:
        plan = analyst.plan(analyst.open(clips.path("h264_closed_gop.mp4")), fps=0.3, chunk_seconds=WHOLE)
        (segments,) = segments_of(analyst, plan)
        assert [segment.frames for segment in segments] == [[0], [100], [200], [300]]
        assert [segment.key_pts for segment in segments] == [None, 90 * 512, 180 * 512, 300 * 512]


class TestFiles:
    @pytest.fixture
    def plan(self, clips: ClipLibrary, analyst: Analyst) -> Plan:
        return analyst.plan(analyst.open(clips.path("h264_closed_gop.mp4")), fps=5.0, chunk_seconds=1.0, labels=["a"])

    def test_a_plan_is_read_as_it_was_written(self, plan: Plan, analyst: Analyst) -> None:
        assert load_plan(analyst.store) == plan

    def test_a_plan_that_is_not_there_is_not_found(self, tmp_path: Path) -> None:
        with pytest.raises(NotFoundError):
            load_plan(FolderStore(tmp_path / "empty"))

    @pytest.mark.parametrize("data", [b"", b"{}", b"\xff\xfe", b'{"format": 2}', b"[1, 2"])
    def test_a_plan_that_cannot_be_read_says_what_to_do(self, data: bytes, plan: Plan, analyst: Analyst) -> None:
        analyst.store.put(PLAN_KEY, data)
        with pytest.raises(StorageError, match=r"plan\.json: is no plan of this version; run with --force"):
            load_plan(analyst.store)

    def test_a_chunk_table_that_is_damaged_says_at_which_chunk(self, plan: Plan, analyst: Analyst) -> None:
        data = bytearray(analyst.store.get(plan.table_key).data)
        data[plan.chunks[2].table_offset + 20] ^= 0xFF
        analyst.store.put(plan.table_key, bytes(data))
        assert load_segments(analyst.store, plan, plan.chunks[1])[0].frames[0] == 30
        with pytest.raises(StorageError, match=r"chunk 2 is damaged .*; plan again with force"):
            load_segments(analyst.store, plan, plan.chunks[2])

    @pytest.mark.parametrize("left", [0, 20, -5])
    def test_a_chunk_table_that_was_cut_off_is_damaged(self, left: int, plan: Plan, analyst: Analyst) -> None:
        chunk = plan.chunks[-1]
        data = analyst.store.get(plan.table_key).data
        analyst.store.put(plan.table_key, data[: chunk.table_offset + left if left >= 0 else left])
        with pytest.raises(StorageError, match="is damaged"):
            load_segments(analyst.store, plan, chunk)

    def test_force_makes_another_plan_of_the_same_run_and_chunks(self, clips: ClipLibrary, analyst: Analyst) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))

        def plan(force_nonce: str) -> Plan:
            return make_plan(source, Options(), analyst.model, analyst.settings, analyst.store, force_nonce=force_nonce)

        first, again, forced = plan(""), plan(""), plan("x")
        assert first.model_copy(update={"seconds": again.seconds}) == again
        assert forced.plan != first.plan
        assert forced.run == first.run
        assert forced.chunks == first.chunks
        assert not {forced.shard_key(forced.chunks[0]), forced.table_key} & {
            first.shard_key(first.chunks[0]), first.table_key,
        }  # fmt: skip

    def test_what_does_not_change_frames_or_detections_does_not_change_the_run(
        self, clips: ClipLibrary, analyst: Analyst
    ) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))
        runs = {
            analyst.plan(source, **options).run
            for options in ({}, {"chunk_seconds": 2.0}, {"priority": 3}, {"outputs": ["frames"]}, {"force": True})
        }
        assert len(runs) == 1

    @pytest.mark.parametrize(
        "options",
        [
            {"fps": 6.0},
            {"start_seconds": 1.0},
            {"end_seconds": 9.0},
            {"max_frames": 5},
            {"min_score": 0.6},
            {"labels": ["a"]},
        ],
    )
    def test_what_changes_them_changes_the_run(
        self, options: dict[str, Any], clips: ClipLibrary, analyst: Analyst
    ) -> None:
        source = analyst.open(clips.path("h264_closed_gop.mp4"))
        assert analyst.plan(source, **options).run != analyst.plan(source).run

    def test_other_bytes_and_other_models_are_other_runs(self, analyst: Analyst) -> None:
        digested = Options().digested()
        identity = SourceIdentity(bucket="b", key="k", size=1, etag="e")
        sources = [
            identity,
            *(identity.model_copy(update={field: f"{field}2"}) for field in ("bucket", "key", "etag", "version")),
        ]
        models = [
            analyst.model,
            *(
                analyst.model.model_copy(update=change)
                for change in ({"name": "x"}, {"version": 9}, {"profile_digest": "x"})
            ),
        ]
        runs = {run_digest(source, digested, model) for source in sources for model in models}
        assert len(runs) == len(sources) * len(models)
