"""The messages that the cluster tests send: what is expected of them is what the parser and the sampling say."""

from __future__ import annotations

import json
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from steps.options import Options
from steps.sampling import choose_frames
from steps.settings import Settings
from steps.task import parse_message
from tests.cluster.traffic import (
    CAMERA_KEYS,
    CLIP_KEY,
    DEFAULT_MAX_FRAMES,
    FPS,
    FRAMES,
    HOSTILE_KEYS,
    SHARES,
    TEXT_KEY,
    Message,
    Traffic,
)

COUNT = 200
SETTINGS = Settings(results="s3://results-ns/reelscan", allowed_sources="s3://videos-ns/*")
FOUND_LATER = ("not_found", "not_a_video")
SEEDS = [str(seed) for seed in range(1, 6)]


def messages(seed: str, count: int = COUNT) -> list[Message]:
    return Traffic("videos-ns", "results-ns", seed).messages(count)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_expected_is_what_the_parser_says(seed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REELSCAN_MAX_FRAMES", str(DEFAULT_MAX_FRAMES))
    for message in messages(seed):
        sent = message.sent("message-1", 0.0)
        received = parse_message(message.body.encode(), "message-1", SETTINGS)
        assert [task.task_id for task in received] == list(sent.expected), message
        for task, expectation in zip(received, message.expectations, strict=True):
            assert task.id == expectation.id, message
            assert (task.place and task.place[1]) == expectation.object, message
            if task.error is not None:
                assert task.error.code == expectation.code, message
            elif expectation.frames is not None:
                assert frames_of(task.require().options) == expectation.frames, message
                assert task.require().object in (CLIP_KEY, *CAMERA_KEYS, *HOSTILE_KEYS)
            elif expectation.code == "invalid_task":
                # Only the video tells.
                options = task.require().options
                assert options.labels is not None or not frames_of(options), message
            else:
                assert expectation.code in FOUND_LATER
                assert task.require().object not in (CLIP_KEY, *CAMERA_KEYS, *HOSTILE_KEYS)
                assert (expectation.code == "not_a_video") == (task.require().object == TEXT_KEY)


def frames_of(options: Options) -> tuple[int, ...]:
    """What is analysed of the clip."""
    found = choose_frames(
        np.arange(FRAMES, dtype=np.int64),
        Fraction(1, FPS),
        fps=options.fps_fraction,
        start_seconds=options.start_fraction,
        end_seconds=options.end_fraction,
        max_frames=options.max_frames,
    )
    return tuple(int(frame) for frame in found)


def test_a_seed_gives_the_same_messages_and_another_others() -> None:
    assert messages("1") == messages("1")
    assert messages("1") != messages("2")


@pytest.mark.parametrize("count", [20, COUNT])
def test_each_kind_is_among_them(count: int) -> None:
    kinds = Counter(message.kind for message in messages("1", count))

    assert kinds.total() == count
    assert set(kinds) == set(SHARES)


def test_what_is_sent_again_follows_at_once() -> None:
    made = messages("1")
    places = [place for place, message in enumerate(made) if message.kind == "resent"]

    assert places
    assert all(made[place].body == made[place - 1].body and made[place].at_once for place in places)


def test_a_queue_takes_each_and_the_longest_are_nearly_too_long() -> None:
    lengths = [len(message.body.encode()) for seed in SEEDS for message in messages(seed)]

    assert 60_000 < max(lengths) <= SETTINGS.max_message_bytes
    assert min(lengths) > 0


def test_notifications_have_more_than_one_record() -> None:
    bodies = [json.loads(message.body) for message in messages("1") if message.kind.startswith("notification")]

    assert all(2 <= len(body["Records"]) <= 4 for body in bodies)
