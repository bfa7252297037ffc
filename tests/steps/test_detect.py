"""Analysing a chunk: what the model is sent, what becomes of its answers, and what goes wrong on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest

from local.serving.backends import Arrays, TensorSpec
from local.serving.backends.detections import (
    BOXES,
    CLASSES,
    COUNT,
    INPUT,
    SCORES,
    FrameDetections,
    batch_outputs,
    detection_signature,
)
from local.serving.server import ModelServer
from steps.detect import detect_chunk
from steps.errors import ModelMismatchError, ModelUnavailableError, ObjectChangedError, ReelscanError
from steps.profile import InputProfile, ModelProfile, OutputsProfile
from steps.settings import Settings
from steps.shards import read_shard_lines
from tests.media.library import ClipLibrary
from tests.steps.analysis import WHOLE, Analyst

CLIP = "h264_closed_gop.mp4"
FRAMES = 301
ROWS = 4
SIDE = 32
LABELS = {1: "person", 2: "bicycle"}
FOUND = FrameDetections(
    boxes=np.array([[0.0, 0.0, 0.5, 0.5], [0.25, 0.25, 0.75, 1.0], [0.0, 0.0, 1.0, 1.0]]),
    scores=np.array([0.9, 0.7, 0.3]),
    classes=np.array([1, 2, 1]),
)


@dataclass
class KeepingBackend:
    """Keeps what it is sent, and finds the same in every picture; runs out of memory on batches over `most_frames`."""

    shape: tuple[int, int, int, int] = (-1, SIDE, SIDE, 3)
    dtype: type = np.uint8
    most_frames: int = 1 << 30
    description: str = "keeping"
    max_batch: int | None = None
    batches: list[npt.NDArray[Any]] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def signature(self) -> Any:
        return detection_signature(TensorSpec(np.dtype(self.dtype), self.shape), ROWS)

    def predict(self, inputs: Arrays) -> Arrays:
        batch = inputs[INPUT]
        with self.lock:
            self.batches.append(batch.copy())
        if len(batch) > self.most_frames:
            raise MemoryError
        return batch_outputs([FOUND] * len(batch), ROWS)

    def close(self) -> None:
        """Holds nothing."""

    @property
    def sizes(self) -> list[int]:
        """Frames in each request, in the order in which they came."""
        return [len(batch) for batch in self.batches]


Serve = Callable[..., Analyst]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """An analyst with a server for a backend; one request in flight, so that requests come in order."""
    with ExitStack() as stack:

        def start(backend: Any, *, batch_size: int = 8, **input_profile: Any) -> Analyst:
            server = stack.enter_context(ModelServer(backend, model_name="keeping"))
            sized = {"width": SIDE, "height": SIDE} | input_profile
            profile = ModelProfile(
                input=InputProfile(name=INPUT, **sized),
                outputs=OutputsProfile(boxes=BOXES, scores=SCORES, classes=CLASSES, count=COUNT),
                box_format="ymin_xmin_ymax_xmax_normalized",
                labels=LABELS,
            )
            settings = Settings(
                serving=server.address, model_name="keeping", batch_size=batch_size, requests_in_flight=1,
                decode_threads=2, unavailable_timeout_seconds=5,
            )  # fmt: skip
            return Analyst(settings, profile, tmp_path / "run")

        yield start


class TestBatches:
    def test_all_requests_have_one_shape_and_the_padding_of_the_last_is_black_and_dropped(
        self, serve: Serve, clips: ClipLibrary
    ) -> None:
        backend = KeepingBackend()

        analysis = serve(backend).analyse(clips.path(CLIP), fps=5.0, chunk_seconds=WHOLE)

        assert {batch.shape for batch in backend.batches} == {(8, SIDE, SIDE, 3)}
        assert len(analysis.analysed) == 51
        assert len(backend.batches) == 7
        assert backend.batches[-1][2].any()
        assert not backend.batches[-1][3:].any()

    def test_a_model_with_its_batch_fixed_to_1_is_sent_one_frame_a_request(
        self, serve: Serve, clips: ClipLibrary
    ) -> None:
        backend = KeepingBackend(shape=(1, SIDE, SIDE, 3))

        analysis = serve(backend).analyse(clips.path(CLIP), fps=5.0, chunk_seconds=WHOLE)

        assert backend.sizes == [1] * 51
        assert len(analysis.analysed) == 51
        assert [(stats.batch_size, stats.batch_halved) for stats in analysis.stats] == [(1, False)]

    @pytest.mark.parametrize(("most_frames", "tried"), [(8, [16, 8]), (5, [16, 8, 4]), (1, [16, 8, 4, 2, 1])])
    def test_out_of_memory_halves_the_batch_until_it_fits_and_the_shard_says_so(
        self, serve: Serve, clips: ClipLibrary, most_frames: int, tried: list[int]
    ) -> None:
        backend = KeepingBackend(most_frames=most_frames)
        analyst = serve(backend, batch_size=16)

        analysis = analyst.analyse(clips.path(CLIP), fps=5.0, chunk_seconds=WHOLE)

        (stats,) = analysis.stats
        assert (stats.frames, stats.batch_size, stats.batch_halved) == (51, tried[-1], True)
        assert list(dict.fromkeys(backend.sizes)) == tried
        assert analysis.numbers == list(range(0, FRAMES, 6))
        (chunk,) = analysis.plan.chunks
        *_, last = read_shard_lines(analyst.store, analysis.plan, chunk)
        assert last.record["stats"]["batch_size"] == tried[-1]
        assert last.record["stats"]["batch_halved"] is True

    def test_only_the_chunk_that_ran_out_of_memory_is_marked(self, serve: Serve, clips: ClipLibrary) -> None:
        backend = KeepingBackend()
        analyst = serve(backend)
        source = analyst.open(clips.path(CLIP))
        plan = analyst.plan(source, fps=5.0, chunk_seconds=5.0)
        stats = []
        for chunk, most_frames in zip(plan.chunks[:2], (4, 8), strict=True):
            backend.most_frames = most_frames
            stats.append(detect_chunk(analyst.store, plan, chunk, source, analyst.profile, analyst.settings))

        assert [(one.batch_size, one.batch_halved) for one in stats] == [(4, True), (8, False)]

    @pytest.mark.parametrize("shape", [(-1, SIDE, SIDE, 3), (1, SIDE, SIDE, 3), (4, SIDE, SIDE, 3)])
    def test_out_of_memory_on_the_smallest_batch_is_model_unavailable_and_leaves_no_shard(
        self, serve: Serve, clips: ClipLibrary, shape: tuple[int, int, int, int]
    ) -> None:
        analyst = serve(KeepingBackend(shape=shape, most_frames=0))
        source = analyst.open(clips.path(CLIP))
        plan = analyst.plan(source, fps=5.0, chunk_seconds=WHOLE)

        with pytest.raises(ModelUnavailableError, match="memory") as raised:
            analyst.detect(plan, source)

        assert (raised.value.exit_status, raised.value.code) == (4, "model_unavailable")
        assert not analyst.store.exists(plan.shard_key(plan.chunks[0]))

    @pytest.mark.parametrize("batch_size", [8, 64])
    def test_progress_begins_at_0_and_reaches_the_total(
        self, serve: Serve, clips: ClipLibrary, batch_size: int
    ) -> None:
        analyst = serve(KeepingBackend(), batch_size=batch_size)
        source = analyst.open(clips.path(CLIP))
        plan = analyst.plan(source, fps=5.0, chunk_seconds=WHOLE)
        told: list[tuple[int, int]] = []

        detect_chunk(
            analyst.store, plan, plan.chunks[0], source, analyst.profile, analyst.settings,
            progress=lambda done, total: told.append((done, total)),
        )  # fmt: skip

        assert told[0] == (0, 51)
        assert told[-1] == (51, 51)
        assert told == sorted(told)

    def test_progress_falls_back_to_0_when_a_chunk_starts_again_and_still_reaches_the_total(
        self, serve: Serve, clips: ClipLibrary
    ) -> None:
        analyst = serve(KeepingBackend(most_frames=4))
        source = analyst.open(clips.path(CLIP))
        plan = analyst.plan(source, fps=5.0, chunk_seconds=WHOLE)
        told: list[int] = []

        detect_chunk(
            analyst.store, plan, plan.chunks[0], source, analyst.profile, analyst.settings,
            progress=lambda done, _: told.append(done),
        )  # fmt: skip

        assert told[:2] == [0, 0]
        assert told[-1] == 51


class TestAnswers:
    def test_boxes_labels_and_scores_are_those_of_the_model_in_pixels_of_the_picture(
        self, serve: Serve, clips: ClipLibrary
    ) -> None:
        analysis = serve(KeepingBackend()).analyse(clips.path(CLIP), fps=1.0, min_score=0.0)

        assert [line["frame"] for line in analysis.lines] == list(range(0, FRAMES, 30))
        for line in analysis.lines:
            assert line["detections"] == [
                {"label": "person", "class_id": 1, "score": 0.9, "box": [0.0, 0.0, 160.0, 90.0]},
                {"label": "bicycle", "class_id": 2, "score": 0.7, "box": [80.0, 45.0, 240.0, 90.0]},
                {"label": "person", "class_id": 1, "score": 0.3, "box": [0.0, 0.0, 320.0, 180.0]},
            ]

    @pytest.mark.parametrize(
        ("options", "kept"),
        [
            ({}, [0.9, 0.7]),
            ({"min_score": 0.8}, [0.9]),
            ({"min_score": 0.95}, []),
            ({"min_score": 0.0, "labels": ["person"]}, [0.9, 0.3]),
            ({"labels": ["bicycle"]}, [0.7]),
            ({"labels": ["person", "bicycle"]}, [0.9, 0.7]),
            ({"labels": ["bicycle"], "min_score": 0.8}, []),
        ],
    )
    def test_only_what_was_asked_for_is_kept_and_a_frame_without_any_has_its_line(
        self, serve: Serve, clips: ClipLibrary, options: dict[str, Any], kept: list[float]
    ) -> None:
        analysis = serve(KeepingBackend()).analyse(clips.path(CLIP), fps=1.0, **options)

        assert len(analysis.lines) == 11
        assert all([one["score"] for one in line["detections"]] == kept for line in analysis.lines)

    def test_no_more_detections_a_frame_are_kept_than_allowed(self, serve: Serve, clips: ClipLibrary) -> None:
        analyst = serve(KeepingBackend())
        analyst = replace(analyst, settings=analyst.settings.model_copy(update={"max_detections": 1}))

        analysis = analyst.analyse(clips.path(CLIP), fps=1.0)

        assert all([one["score"] for one in line["detections"]] == [0.9] for line in analysis.lines)


class TestMisfits:
    def refused(self, analyst: Analyst, change: Callable[[], Analyst], path: Path) -> ReelscanError:
        """The error of detecting, after a change, what was planned before it; there is no shard then."""
        source = analyst.open(path)
        plan = analyst.plan(source, fps=1.0, chunk_seconds=WHOLE)
        changed = change()
        with pytest.raises(ReelscanError) as raised:
            changed.detect(plan, changed.open(path))
        assert not analyst.store.exists(plan.shard_key(plan.chunks[0]))
        return raised.value

    def test_a_profile_other_than_the_planned_one_is_a_mismatch_before_anything_is_sent(
        self, serve: Serve, clips: ClipLibrary
    ) -> None:
        backend = KeepingBackend()
        analyst = serve(backend)
        other = analyst.profile.model_copy(update={"class_id_offset": 1})

        error = self.refused(analyst, lambda: replace(analyst, profile=other), clips.path(CLIP))

        assert isinstance(error, ModelMismatchError)
        assert (error.exit_status, error.code) == (3, "model_mismatch")
        assert "REELSCAN_MODEL_PROFILE" in str(error)
        assert backend.batches == []

    def test_a_version_other_than_the_planned_one_is_a_mismatch(self, serve: Serve, clips: ClipLibrary) -> None:
        analyst = serve(KeepingBackend())
        planned = replace(analyst, settings=analyst.settings.model_copy(update={"model_version": 2}))
        # The server lists no version 2 and never will, which the client cannot tell from one that is still loading.
        waiting = replace(planned, settings=planned.settings.model_copy(update={"ready_timeout_seconds": 0.5}))

        error = self.refused(planned, lambda: waiting, clips.path(CLIP))

        assert error.code in ("model_mismatch", "model_unavailable")
        assert "version 2" in str(error)

    def test_a_model_of_another_size_than_the_profiles_is_a_mismatch(self, serve: Serve, clips: ClipLibrary) -> None:
        analyst = serve(KeepingBackend(shape=(-1, SIDE, 2 * SIDE, 3)))

        error = self.refused(analyst, lambda: analyst, clips.path(CLIP))

        assert isinstance(error, ModelMismatchError)
        assert str(2 * SIDE) in str(error)

    def test_a_video_other_than_the_planned_one_is_refused_before_anything_is_sent(
        self, serve: Serve, clips: ClipLibrary, tmp_path: Path
    ) -> None:
        backend = KeepingBackend()
        analyst = serve(backend)
        path = tmp_path / "clip.mp4"
        path.write_bytes(clips.path(CLIP).read_bytes())

        def replace_video() -> Analyst:
            path.write_bytes(clips.path("h264_open_gop.mp4").read_bytes())
            return analyst

        error = self.refused(analyst, replace_video, path)

        assert isinstance(error, ObjectChangedError)
        assert (error.exit_status, error.code) == (3, "object_changed")
        assert backend.batches == []


# What the model is sent

TOLERANCE_LEVELS = 2.0
"""Of 0 to 255. FFmpeg converts in fixed point and interpolates over neighbours; the pictures hardly change there."""
COLOUR_WIDTH, COLOUR_HEIGHT, COLOUR_FRAMES = 320, 180, 10
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)
"""Shares of red and blue in luma: ITU-R BT.601-7 and BT.709-6, item 3.2."""
TAG_OF_BT709 = 1


def write_colours(path: Path, colorspace: int | None = None) -> None:
    """A clip without loss, of colours that change slowly from left to right, from top to bottom and in time."""
    across = np.linspace(0, 1, COLOUR_WIDTH)[None, :]
    down = np.linspace(0, 1, COLOUR_HEIGHT)[:, None]
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=5)
        stream.width, stream.height, stream.pix_fmt = COLOUR_WIDTH, COLOUR_HEIGHT, "yuv444p"
        if colorspace is not None:
            stream.codec_context.colorspace = colorspace
        for number in range(COLOUR_FRAMES):
            planes = np.stack(
                [60 + 100 * across + 20 * down + number, 90 + 60 * down + 0 * across, 165 - 60 * across * down]
            )
            frame = av.VideoFrame.from_ndarray(planes.round().astype(np.uint8), format="yuv444p")
            if colorspace is not None:
                frame.colorspace = colorspace
            frame.pts, frame.time_base = number, Fraction(1, 5)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def decoded_planes(path: Path) -> list[npt.NDArray[np.float64]]:
    """Y, U and V of each picture, [3, height, width]."""
    with av.open(str(path)) as container:
        return [frame.to_ndarray().astype(np.float64) for frame in container.decode(video=0)]


def to_rgb(planes: npt.NDArray[np.float64], shares: tuple[float, float]) -> npt.NDArray[np.float64]:
    """RGB [height, width, 3], 0 to 255, of narrow-range YUV by the definition of the colour difference signals."""
    red_share, blue_share = shares
    luma = (planes[0] - 16) / 219
    red = luma + 2 * (1 - red_share) * (planes[2] - 128) / 224
    blue = luma + 2 * (1 - blue_share) * (planes[1] - 128) / 224
    green = (luma - red_share * red - blue_share * blue) / (1 - red_share - blue_share)
    return (255 * np.stack([red, green, blue], axis=-1)).clip(0, 255)


def resampled(picture: npt.NDArray[np.float64], width: int, height: int) -> npt.NDArray[np.float64]:
    """The picture at the centres of width x height pixels, between its own linearly."""
    for axis, size in ((0, height), (1, width)):
        centres = (np.arange(size) + 0.5) * picture.shape[axis] / size - 0.5
        below = np.clip(np.floor(centres).astype(int), 0, picture.shape[axis] - 2)
        share = np.expand_dims((centres - below).clip(0, 1), tuple(set(range(3)) - {axis}))
        picture = picture.take(below, axis) * (1 - share) + picture.take(below + 1, axis) * share
    return picture


def expected_pictures(
    path: Path, *, size: tuple[int, int], letterbox: bool = False, bgr: bool = False,
    shares: tuple[float, float] = BT601,
) -> npt.NDArray[np.float64]:  # fmt: skip
    """What a model of `size` (width, height) should be sent of a clip, as levels 0 to 255."""
    width, height = size
    shrink = min(width / COLOUR_WIDTH, height / COLOUR_HEIGHT)
    inner = (int(COLOUR_WIDTH * shrink + 0.5), int(COLOUR_HEIGHT * shrink + 0.5)) if letterbox else size
    left, top = (width - inner[0]) // 2, (height - inner[1]) // 2
    pictures = np.zeros((COLOUR_FRAMES, height, width, 3))
    for place, planes in zip(pictures, decoded_planes(path), strict=True):
        place[top : top + inner[1], left : left + inner[0]] = resampled(to_rgb(planes, shares), *inner)
    return pictures[..., ::-1] if bgr else pictures


def sent_pictures(backend: KeepingBackend) -> npt.NDArray[np.float64]:
    """All that was sent of a clip, without the padding."""
    return np.concatenate(backend.batches)[:COLOUR_FRAMES].astype(np.float64)


class TestTensor:
    @pytest.mark.parametrize("size", [(64, 64), (320, 180), (40, 96), (400, 300)])
    @pytest.mark.parametrize("color", ["rgb", "bgr"])
    @pytest.mark.parametrize("resize", ["stretch", "letterbox"])
    def test_bytes_are_the_picture_in_the_models_size_and_order_of_colours(
        self, serve: Serve, tmp_path: Path, size: tuple[int, int], color: str, resize: str
    ) -> None:
        path = tmp_path / "colours.mkv"
        write_colours(path)
        width, height = size
        backend = KeepingBackend(shape=(-1, height, width, 3))

        serve(backend, width=width, height=height, color=color, resize=resize).analyse(path, fps=0.0)

        expected = expected_pictures(path, size=size, letterbox=resize == "letterbox", bgr=color == "bgr")
        assert np.abs(sent_pictures(backend) - expected).max() <= TOLERANCE_LEVELS
        swapped = expected[..., ::-1]
        assert np.abs(sent_pictures(backend) - swapped).max() > 10 * TOLERANCE_LEVELS

    @pytest.mark.parametrize(("scale", "offset"), [(1.0, 0.0), (1 / 127.5, -1.0), (1 / 255, 0.0), (-2.0, 100.0)])
    @pytest.mark.parametrize("resize", ["stretch", "letterbox"])
    def test_floats_are_the_levels_scaled_and_shifted_those_of_the_letterbox_too(
        self, serve: Serve, tmp_path: Path, scale: float, offset: float, resize: str
    ) -> None:
        path = tmp_path / "colours.mkv"
        write_colours(path)
        backend = KeepingBackend(shape=(-1, 64, 64, 3), dtype=np.float32)

        analyst = serve(backend, width=64, height=64, resize=resize, scale=scale, offset=offset)
        analyst.analyse(path, fps=0.0)

        assert backend.batches[0].dtype == np.float32
        levels = expected_pictures(path, size=(64, 64), letterbox=resize == "letterbox")
        sent = sent_pictures(backend)
        assert np.abs(sent - (levels * scale + offset)).max() <= TOLERANCE_LEVELS * abs(scale)
        if resize == "letterbox":
            np.testing.assert_array_equal(sent[:, :14], np.float32(offset))

    def test_floats_and_bytes_are_the_same_levels(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "colours.mkv"
        write_colours(path)
        backends = [KeepingBackend(dtype=np.uint8), KeepingBackend(dtype=np.float32)]
        for backend in backends:
            serve(backend).analyse(path, fps=0.0)

        np.testing.assert_array_equal(sent_pictures(backends[0]), sent_pictures(backends[1]))

    def test_colours_are_taken_by_the_matrix_that_the_stream_names(self, serve: Serve, tmp_path: Path) -> None:
        path = tmp_path / "colours.mkv"
        write_colours(path, colorspace=TAG_OF_BT709)
        backend = KeepingBackend()

        serve(backend).analyse(path, fps=0.0)

        expected, other = (expected_pictures(path, size=(SIDE, SIDE), shares=shares) for shares in (BT709, BT601))
        assert np.abs(sent_pictures(backend) - expected).max() <= TOLERANCE_LEVELS
        assert np.abs(expected - other).max() > 2 * TOLERANCE_LEVELS


# Memory

SHORT_SECONDS, TIMES = 20, 10
