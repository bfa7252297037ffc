"""Runs made without a video: a plan, its chunk table, and shards."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from steps.plan import PLAN_KEY, Chunk, ModelIdentity, Plan, Segment, SourceIdentity, VideoFacts, pack_segments
from steps.shards import ChunkStats, ShardWriter
from steps.store import Store

FIRST_PTS = 900
TICKS_PER_SECOND = 12800
TICKS_PER_FRAME = 512
LABELS = ("person", "bicycle", "Ampel-Männchen 🚦")


def pts_of(frame: int) -> int:
    return FIRST_PTS + frame * TICKS_PER_FRAME


def time_of(frame: int) -> float:
    return round(frame * TICKS_PER_FRAME / TICKS_PER_SECOND, 6)


def detections_of(frame: int) -> list[dict[str, Any]]:
    """None for frame 0, one for frame 1, two for frame 2, and so on, over and over."""
    return [
        {
            "label": LABELS[(frame + number) % 3],
            "class_id": (frame + number) % 3 + 1,
            "score": round(0.9876 - number / 10, 4),
            "box": [float(number), 10.5, 100.0 + number, 50.2],
        }
        for number in range(frame % 4)
    ]


def make_run(store: Store, chunks: Sequence[Sequence[int]], *, times: str = "pts") -> Plan:
    """Write a plan whose chunks hold these frames. `times` of frames: by "pts", by "ticks", or without "no pts"."""
    table = b""
    made = []
    for index, frames in enumerate(chunks):
        # Two segments, so that a chunk is not taken for one.
        halves = [frames[: len(frames) // 2], frames[len(frames) // 2 :]]
        packed = pack_segments([_segment(half, times) for half in halves if half])
        made.append(
            Chunk(
                index=index,
                first_frame=frames[0],
                last_frame=frames[-1],
                frames=len(frames),
                start_seconds=time_of(frames[0]),
                end_seconds=time_of(frames[-1]),
                first_byte=0,
                last_byte=1000,
                table_offset=len(table),
                table_length=len(packed),
            )
        )
        table += packed
    last = max(chunk.last_frame for chunk in made)
    plan = Plan(
        seconds=0.5,
        run="0123456789abcdef0123456789abcdef",
        plan="fedcba9876543210",
        source=SourceIdentity(bucket="videos", key="some/video.mp4", size=1000, etag='"e"'),
        video=VideoFacts(
            container="mov,mp4,m4a,3gp,3g2,mj2",
            codec="h264",
            width=640,
            height=360,
            rotation_degrees=0,
            mirrored=False,
            pixel_format="yuv420p",
            time_base=(1, TICKS_PER_SECOND),
            first_pts=FIRST_PTS,
            frames=last + 1,
            duration_seconds=time_of(last + 1),
            fps=25.0,
            keyframes=len(made),
            frames_from_header=None,
            duration_seconds_from_header=None,
            fps_from_header=None,
        ),
        options={"fps": 5.0},
        model=ModelIdentity(name="ssd", version=3, profile_digest="p"),
        access="seek",
        identify_by="pts" if times == "pts" else "output_order",
        header_bytes=100,
        planned_frames=sum(chunk.frames for chunk in made),
        chunks=made,
    )
    store.put(plan.table_key, table)
    store.put(PLAN_KEY, plan.model_dump_json().encode())
    return plan


def frames_of(chunk: Chunk, plan: Plan, store: Store) -> list[int]:
    from steps.shards import planned_frames

    return [planned.frame for planned in planned_frames(store, plan, chunk)]


def stats(frames: int, missing: int = 0, **changes: Any) -> ChunkStats:
    fields: dict[str, Any] = {
        "frames": frames,
        "missing": missing,
        "seconds": {"ready": 0.1, "decode": 1.0, "serve": 1.5, "total": 2.25},
        "batch_size": 8,
        "batch_halved": False,
        "bytes_read": 1234,
        "model_version": 3,
    }
    return ChunkStats(**{**fields, **changes})


def write_shard(store: Store, plan: Plan, chunk: Chunk, *, missing: Collection[int] = (), **changes: Any) -> None:
    """Write the shard that detect would; `missing` frames could not be decoded. `changes` are of the stats."""
    frames = frames_of(chunk, plan, store)
    with ShardWriter(store, plan, chunk) as shard:
        for frame in frames:
            if frame in missing:
                shard.add_missing(frame, pts_of(frame))
            else:
                shard.add(frame, time_of(frame), pts_of(frame), detections_of(frame))
        lost = sum(1 for frame in frames if frame in missing)
        shard.finish(stats(len(frames) - lost, lost, **changes))


def write_shards(store: Store, plan: Plan, *, missing: Collection[int] = ()) -> None:
    for chunk in plan.chunks:
        write_shard(store, plan, chunk, missing=missing)


def _segment(frames: Sequence[int], times: str) -> Segment:
    return Segment(
        key_pts=None,
        key_dts=None,
        key_position=None,
        key_displayed=True,
        last_pts=None,
        frames=list(frames),
        pts=[None if times == "no pts" else pts_of(frame) for frame in frames],
        ticks=None if times == "pts" else [frame * TICKS_PER_FRAME for frame in frames],
    )
