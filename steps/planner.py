"""Making a plan: index the video, choose the frames, cut them into chunks, write the plan and its chunk table."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from steps.chunking import (
    ANALYSE_SECONDS_PER_FRAME,
    DECODE_SECONDS_PER_MEGAPIXEL,
    Keys,
    Shown,
    cut,
    group_of_frames,
    keys_of,
    runs_of,
    shown_frames,
)
from steps.errors import InvalidTaskError, NotFoundError, StorageError, TooLargeError
from steps.index import NO_PTS, VideoIndex, jumps_back, read_index
from steps.plan import (
    PLAN_KEY,
    Chunk,
    ModelIdentity,
    Plan,
    Segment,
    VideoFacts,
    digest,
    pack_segments,
    plan_key,
    run_digest,
)
from steps.sampling import choose_frames, measured_fps
from steps.source import SourceReader

if TYPE_CHECKING:
    from steps.options import Options
    from steps.settings import Settings
    from steps.source import Source
    from steps.store import Store

READ_SHARE = 0.15
"""What the chunks' reading of the file's start over and over may add to reading the video once, as a share of it."""
FREE_START_BYTES = (1 << 20) - (256 << 10)
"""So much of it is within the mebibyte a chunk that reading may cost besides; the rest are blocks read past the end."""
_LIMIT_FACTOR = 3
_LIMIT_BYTES = 64 << 20


def make_plan(
    source: Source, options: Options, model: ModelIdentity, settings: Settings, store: Store, *,
    force_nonce: str = "", start_of_worker_seconds: float | None = None, replace: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Plan:  # fmt: skip
    """Index a video in one forward read, and write its plan under RUN.

    Args:
        store: where the RUN's files are.
        force_nonce: makes another PLAN of the same chunks, so that no shard of an earlier one is taken for its own.
        start_of_worker_seconds: what starting one chunk's worker costs; the deployment's setting if None.
        replace: whether this becomes the plan of a RUN that has one. If not, that one is returned: of two who plan the
            same RUN at once both go on with the plan of the first.
        progress: is told the bytes read and in all.

    Raises:
        BadInputError: the video or the range asked for cannot be analysed; each with its own subclass.
        OutsideError: reading or writing failed.
    """
    began = time.monotonic()
    size = source.identity.size
    reader = SourceReader(
        source,
        limit_bytes=size * _LIMIT_FACTOR + _LIMIT_BYTES,
        deadline=began + settings.plan_timeout_seconds,
    )
    index = read_index(reader, source.identity.url, settings, progress)
    planner = _Planner(index, options, settings, source)
    worker_seconds = settings.worker_start_seconds if start_of_worker_seconds is None else start_of_worker_seconds
    chunks, table, access = planner.cut_into_chunks(worker_seconds)
    plan_digest = digest(
        [source.identity.model_dump(), options.digested(), [chunk.model_dump() for chunk in chunks], force_nonce]
    )
    plan = Plan(
        run=run_digest(source.identity, options.digested(), model),
        plan=plan_digest[:16],
        source=source.identity,
        video=planner.facts,
        options=options.digested(),
        model=model,
        access=access,
        identify_by=index.identify_by,
        header_bytes=index.header.bytes_to_open,
        planned_frames=sum(chunk.frames for chunk in chunks),
        chunks=chunks,
        seconds=round(time.monotonic() - began, 3),
    )
    return _publish(plan, table, store, replace=replace)


def _publish(plan: Plan, table: bytes, store: Store, *, replace: bool) -> Plan:
    text = plan.model_dump_json(indent=1).encode()
    store.put(plan.table_key, table)
    store.put(plan_key(plan.plan), text)
    if not replace:
        if store.create(PLAN_KEY, text) is not None:
            return plan
        # One that cannot be read is replaced all the same.
        with contextlib.suppress(NotFoundError, StorageError):
            first = load_plan(store)
            if first.run == plan.run:
                return first
    store.put(PLAN_KEY, text)
    return plan


def load_plan(store: Store, plan: str | None = None) -> Plan:
    """The plan under RUN: the latest, or the one of which the name is given.

    Raises:
        NotFoundError: there is none.
        StorageError: it cannot be read.
    """
    key = PLAN_KEY if plan is None else plan_key(plan)
    data = store.get(key).data
    try:
        return Plan.model_validate_json(data)
    except ValueError as error:
        raise StorageError(f"{store.url}{key}: is no plan of this version; run with --force") from error


@dataclass
class _Timeline:
    shown: Shown
    ticks: NDArray[np.int64]
    """Times of the displayed frames in units of the time base from the first one."""


class _Planner:
    def __init__(self, index: VideoIndex, options: Options, settings: Settings, source: Source) -> None:
        self._index = index
        self._options = options
        self._settings = settings
        self._source = source
        self._timeline = _timeline_of(index)
        self.facts = self._measure()
        self._frames = self._choose()

    def cut_into_chunks(
        self, worker_seconds: float
    ) -> tuple[list[Chunk], bytes, Literal["seek", "splice", "sequential"]]:
        keys = keys_of(self._index.packets)
        access = self._access(keys)
        if access == "sequential":
            parts = [self._frames]
        else:
            groups = group_of_frames(self._frames, self._timeline.shown, keys)
            seconds = ((keys.pts - self.facts.first_pts) * float(self._index.time_base)).astype(np.float64)
            chunk_seconds = self._options.chunk_seconds
            parts = cut(
                self._frames, groups, seconds,
                chunk_seconds=None if chunk_seconds == "auto" else chunk_seconds,
                work_seconds=self._work_seconds(), start_of_worker_seconds=worker_seconds,
                max_chunks=self._max_chunks(),
            )  # fmt: skip
        chunks: list[Chunk] = []
        table = bytearray()
        for number, frames in enumerate(parts):
            segments = [self._whole(frames)] if access == "sequential" else self._segments(frames, keys)
            first_byte, last_byte = (0, self._source.identity.size)
            if access != "sequential":
                first_byte, last_byte = self._byte_range(frames, keys)
            packed = pack_segments(segments)
            chunks.append(
                Chunk(
                    index=number,
                    first_frame=int(frames[0]),
                    last_frame=int(frames[-1]),
                    frames=len(frames),
                    start_seconds=self._seconds(frames[0]),
                    end_seconds=self._seconds(frames[-1]),
                    first_byte=first_byte,
                    last_byte=last_byte,
                    table_offset=len(table),
                    table_length=len(packed),
                )
            )
            table += packed
        return chunks, bytes(table), access

    def _measure(self) -> VideoFacts:
        index, ticks = self._index, self._timeline.ticks
        shown = index.packets.pts[index.packets.displayed]
        width, height = index.orientation.displayed_size(index.width, index.height)
        fps = measured_fps(ticks, index.time_base)
        # A frame lasts until the next one; how long the last one lasts no container says reliably.
        frame_ticks = float(np.median(np.diff(ticks))) if len(ticks) > 1 else 0.0
        duration = (float(ticks[-1]) + frame_ticks) * float(index.time_base)
        if duration > self._settings.max_duration_seconds:
            raise TooLargeError(
                f"{self._source.identity.url}: lasts {duration:.0f} s, allowed are "
                f"{self._settings.max_duration_seconds:.0f} s (REELSCAN_MAX_DURATION_SECONDS)"
            )
        header = index.header
        return VideoFacts(
            container=header.container,
            codec=header.codec,
            width=width,
            height=height,
            rotation_degrees=index.orientation.rotation_degrees,
            mirrored=index.orientation.mirrored,
            pixel_format=index.pixel_format,
            time_base=(index.time_base.numerator, index.time_base.denominator),
            first_pts=0 if bool((shown == NO_PTS).any()) else int(self._timeline.shown.pts[0]),
            frames=len(ticks),
            duration_seconds=round(duration, 6),
            fps=round(float(fps), 6) if fps else 0.0,
            keyframes=int(index.packets.key.sum()),
            frames_from_header=header.frames,
            duration_seconds_from_header=header.duration_seconds,
            fps_from_header=header.fps,
            not_displayed_packets=len(index.packets.pts) - len(ticks),
            warnings=index.warnings,
        )

    def _choose(self) -> NDArray[np.int64]:
        options = self._options
        frames = choose_frames(
            self._timeline.ticks, self._index.time_base, fps=options.fps_fraction, start_seconds=options.start_fraction,
            end_seconds=options.end_fraction, max_frames=options.max_frames,
        )  # fmt: skip
        if not len(frames):
            end = "" if options.end_seconds is None else f" to {options.end_seconds:g} s"
            raise InvalidTaskError(
                f"no frame lies in the range from {options.start_seconds:g} s{end}: {self._source.identity.url} lasts "
                f"{self.facts.duration_seconds:g} s; choose a range that holds a frame"
            )
        return frames

    def _access(self, keys: Keys) -> Literal["seek", "splice", "sequential"]:
        header = self._index.header
        if self._index.identify_by != "pts" or not self._index.clean_keys or len(keys.pts) < 2:
            return "sequential"
        if header.container == "mpegts":
            return "splice"
        # Without an index FFmpeg looks for a place by reading up to it: fragmented MP4, live WebM.
        indexed = {
            "mov": header.index_entries >= len(self._index.packets.pts),
            "matroska": header.has_cues,
            "avi": header.index_entries > 0,
        }
        return "seek" if indexed.get(header.container.partition(",")[0], False) else "sequential"

    def _work_seconds(self) -> float:
        megapixels = self.facts.width * self.facts.height / 1e6
        seconds = (
            self._timeline.ticks[self._frames[-1]] - self._timeline.ticks[self._frames[0]]
        ) * self._index.time_base
        decoded = float(seconds) * self.facts.fps
        return decoded * megapixels * DECODE_SECONDS_PER_MEGAPIXEL + len(self._frames) * ANALYSE_SECONDS_PER_FRAME

    def _max_chunks(self) -> int:
        again = self._index.header.bytes_to_open - FREE_START_BYTES
        if self._source.identity.bucket is None or again <= 0:
            return self._settings.max_chunks
        return max(1, min(self._settings.max_chunks, int(READ_SHARE * self._source.identity.size / again)))

    def _seconds(self, frame: np.int64) -> float:
        return round(float(int(self._timeline.ticks[frame]) * self._index.time_base), 6)

    def _segments(self, frames: NDArray[np.int64], keys: Keys) -> list[Segment]:
        packets, shown = self._index.packets, self._timeline.shown
        segments = []
        for run in runs_of(frames, shown, keys):
            key = int(keys.packet[run.key])
            key_pts, key_dts = int(packets.pts[key]), int(packets.dts[key])
            # Frames shown before the first keyframe come out only when decoding starts at the file's own start.
            from_start = run.key == 0
            segments.append(
                Segment(
                    key_pts=None if from_start else key_pts,
                    key_dts=None if from_start else min(key_pts, key_pts if key_dts == NO_PTS else key_dts),
                    key_position=None if from_start or packets.position[key] < 0 else int(packets.position[key]),
                    key_displayed=not packets.discarded[key],
                    last_pts=int(packets.pts[run.last_packet]),
                    frames=run.frames.tolist(),
                    pts=shown.pts[run.frames].tolist(),
                    damaged=self._damaged_pts(0 if from_start else key, run.last_packet),
                )
            )
        return segments

    def _damaged_pts(self, first_packet: int, last_packet: int) -> list[int]:
        packets = self._index.packets
        needed = slice(first_packet, last_packet + 1)
        return [int(pts) for pts in packets.pts[needed][packets.damaged[needed]] if pts != NO_PTS]

    def _damaged_frames(self) -> list[int]:
        """Numbers of the displayed frames from a damaged packet to before the next keyframe of the file."""
        packets = self._index.packets
        numbers = np.arange(len(packets.pts))
        last_key = np.maximum.accumulate(np.where(packets.key, numbers, -1))
        leads = (last_key >= 0) & (packets.pts < packets.pts[last_key])
        last_damaged = np.maximum.accumulate(np.where(packets.damaged, numbers, -1))
        # What leads a keyframe is nothing that the pictures behind it are made of.
        last_damaged_behind = np.maximum.accumulate(np.where(packets.damaged & ~leads, numbers, -1))
        spoilt = np.where(leads, last_damaged, last_damaged_behind) >= np.maximum(last_key, 0)
        return [int(number) for number in np.flatnonzero(spoilt[self._timeline.shown.packet])]

    def _whole(self, frames: NDArray[np.int64]) -> Segment:
        index, shown = self._index, self._timeline.shown
        by_pts = index.identify_by == "pts"
        has_pts = index.identify_by != "output_order"
        return Segment(
            key_pts=None,
            key_dts=None,
            key_position=None,
            key_displayed=True,
            last_pts=int(index.packets.pts[int(shown.packet[frames].max())]) if by_pts else None,
            frames=frames.tolist(),
            pts=shown.pts[frames].tolist() if has_pts else [None] * len(frames),
            ticks=None if by_pts else self._timeline.ticks[frames].tolist(),
            damaged=self._damaged_pts(0, len(index.packets.pts)) if by_pts else self._damaged_frames(),
            displayed_pts=shown.pts.tolist() if index.identify_by == "displayed_pts" else None,
        )

    def _byte_range(self, frames: NDArray[np.int64], keys: Keys) -> tuple[int, int]:
        packets, shown = self._index.packets, self._timeline.shown
        runs = runs_of(frames, shown, keys)
        first = int(keys.packet[runs[0].key])
        last = max(run.last_packet for run in runs)
        needed = slice(first, last + 1)
        if (packets.position[needed] < 0).any():
            return 0, self._source.identity.size
        end = int((packets.position[needed] + packets.size[needed]).max())
        if last + 1 < len(packets.position):
            # A transport stream's packet is known to be whole only when the next one begins.
            end = max(end, int(packets.position[last + 1]))
        return int(packets.position[needed].min()), min(end, self._source.identity.size)


def _timeline_of(index: VideoIndex) -> _Timeline:
    if index.identify_by == "output_order":
        return _timeline_by_output(index)
    if index.identify_by == "displayed_pts":
        return _timeline_of_parts(index)
    shown = shown_frames(index.packets)
    return _Timeline(shown, shown.pts - shown.pts[0])


def _timeline_by_output(index: VideoIndex) -> _Timeline:
    """The n-th picture that comes out is shown at the n-th of the times that the container has."""
    packets = index.packets
    numbers = np.flatnonzero(packets.displayed)
    pts, dts = packets.pts[numbers], packets.dts[numbers]
    times = dts if bool((pts == NO_PTS).any()) else pts
    if bool((times == NO_PTS).any()) or len(np.unique(times)) < len(times):
        frame_ticks = 1 / ((index.guessed_fps or Fraction(25)) * index.time_base)
        times = np.array([int(number * frame_ticks) for number in range(len(numbers))], dtype=np.int64)
    times = np.sort(times)
    return _Timeline(Shown(pts, numbers), times - times[0])


def _timeline_of_parts(index: VideoIndex) -> _Timeline:
    """Times that jump back, where recordings were put end to end, go on where the part before ended."""
    packets = index.packets
    numbers = np.flatnonzero(packets.displayed)
    pts = packets.pts[numbers]
    order: list[NDArray[np.int64]] = []
    ticks: list[NDArray[np.int64]] = []
    start = 0
    for part in np.split(np.arange(len(numbers)), jumps_back(packets.dts[numbers])):
        by_time = part[np.argsort(pts[part], kind="stable")]
        ticks_of_part = pts[by_time] - pts[by_time[0]] + start
        frame_ticks = max(1, int(np.median(np.diff(ticks_of_part)))) if len(part) > 1 else 1
        order.append(by_time)
        ticks.append(ticks_of_part)
        start = int(ticks_of_part[-1]) + frame_ticks
    displayed = np.concatenate(order)
    return _Timeline(Shown(pts[displayed], numbers[displayed]), np.concatenate(ticks))
