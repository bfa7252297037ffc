"""Whether what is compared does the same: pictures and detections of `reelscan detect` and of its separate stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.cases import Model, Setup, coded, plan_run
from bench.children import Stage, model_server, run_step, step_environment
from local.serving.backends.coded import FIRST_CRC_CLASS
from steps.planner import load_plan
from steps.shards import ShardLine, read_shard_lines
from steps.store import FolderStore


@dataclass(frozen=True)
class Agreement:
    """The comparison of one case."""

    clip: str
    model: str
    frames: int
    differences: list[str]
    """What differs, a line for each frame; none is as it should be."""


def check_cases(setup: Setup) -> list[Agreement]:
    """Compare pictures at each size of a model's input, and detections with each model."""
    agreements, frames = [], setup.effort.checked_frames
    for case in setup.cases:
        setup.tell(f"comparing outputs: {case.clip}, {case.model.name}")
        clip = case.make_clip(setup.folder, frames)
        pictures = compare_pictures(setup.folder, clip, case.model.input_pixels, frames)
        detections = compare_detections(setup.folder, clip, case.model, frames)
        agreements.append(Agreement(case.clip, case.model.name, frames, pictures + detections))
    return agreements


def compare_pictures(folder: Path, clip: Path, input_pixels: int, frames: int) -> list[str]:
    """Detect with the model that gives back each picture's CRC-32; compare it with that of the picture made alone."""
    lines, alone = _detect_and_check(folder, clip, coded(input_pixels), frames)
    return picture_differences(lines, alone["crcs"])


def compare_detections(folder: Path, clip: Path, model: Model, frames: int) -> list[str]:
    """Detect, and compare the lines with those of ready pictures that were sent alone."""
    lines, alone = _detect_and_check(folder, clip, model, frames)
    return line_differences(lines, alone["lines"])


def picture_differences(lines: Sequence[ShardLine], crcs: Sequence[int]) -> list[str]:
    """The frames whose picture at the server was not the one of the CRC-32."""
    differences = _count_difference(len(lines), len(crcs))
    for line, crc in zip(lines, crcs, strict=False):
        bits = [found["class_id"] - FIRST_CRC_CLASS for found in line.record.get("detections", ())]
        sent = sum(1 << bit for bit in bits if bit >= 0)
        if sent != crc:
            differences.append(
                f"frame {line.record['frame']}: the picture sent has CRC-32 {sent:08x}, made alone {crc:08x}"
            )
    return differences


def line_differences(lines: Sequence[ShardLine], alone: Sequence[str]) -> list[str]:
    """The frames whose line is not that of the frame sent alone."""
    return _count_difference(len(lines), len(alone)) + [
        f"frame {line.record['frame']}: detect wrote {line.text[:200]}, ready pictures give {expected[:200]}"
        for line, expected in zip(lines, alone, strict=False)
        if line.text != expected
    ]


def _count_difference(detected: int, alone: int) -> list[str]:
    return [] if detected == alone else [f"detect wrote {detected} frames, its stages give {alone}"]


def detected_lines(run: Path, environment: Mapping[str, str]) -> list[ShardLine]:
    """The frames' lines that `reelscan detect` writes for chunk 0 of a plan."""
    run_step(environment, "detect", "--run", run, "--chunk", "0")
    store = FolderStore(run)
    plan = load_plan(store)
    return [line for line in read_shard_lines(store, plan, plan.chunks[0]) if "stats" not in line.record]


def _detect_and_check(folder: Path, clip: Path, model: Model, frames: int) -> tuple[list[ShardLine], dict[str, Any]]:
    """The lines that `reelscan detect` wrote, and what the stage `check` makes of the same frames."""
    profile = model.write_profile(folder)
    run = plan_run(folder / "check", clip, profile, frames)
    with model_server(model.path) as server:
        environment = step_environment(server, profile)
        lines = detected_lines(run, environment)
        with Stage("check", run, environment) as check:
            return lines, check.measure()
