"""`make demo`: what it prints fits the clip."""

from __future__ import annotations

import gzip
import json
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

from local.demo import CLIP
from tests.local.command import DEADLINE_SECONDS, children_of, finish, runs, wait_until

DEMO = [sys.executable, "-P", "-m", "local.demo"]

# By eye, as in samples/README.md: seconds in which the whole of a person is in the picture, and in which nobody is.
WHOLE_PERSON = [(0.0, 1.3), (7.0, 18.2)]
NOBODY = [(2.1, 6.3), (19.0, 19.9)]


def inside(seconds: float, ranges: list[tuple[float, float]]) -> bool:
    return any(first <= seconds <= last for first, last in ranges)


def test_persons_are_found_when_they_are_there_and_the_results_are_copied(tmp_path: Path) -> None:
    done = subprocess.run(
        DEMO, cwd=tmp_path, capture_output=True, text=True, timeout=DEADLINE_SECONDS, check=False
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "SIGTERM" not in done.stderr  # the demo itself stops the service
    assert all(line.strip() for line in done.stderr.splitlines())
    assert not re.search(r"\d$", done.stdout, re.MULTILINE), "a number stands apart from its unit"
    assert re.search(r"^status +succeeded$", done.stdout, re.MULTILINE)
    assert re.search(r"^seconds +\d+\.\d ", done.stdout, re.MULTILINE)
    shown = re.search(
        r"^person .* (\d+\.\d) s to (\d+\.\d) s, (\d+\.\d) s to (\d+\.\d) s *$", done.stdout, re.MULTILINE
    )
    assert shown, done.stdout
    printed = [float(seconds) for seconds in shown.groups()]
    assert printed == sorted(printed)

    out = tmp_path / "out/demo"
    for name in ("frames.jsonl.gz", "detections.parquet", "coco.json", "rekognition.json", "summary.json"):
        assert (out / name).is_file()
        assert f"out/demo/{name}" in done.stdout
    with gzip.open(out / "frames.jsonl.gz", "rt") as lines:
        frames = [json.loads(line) for line in lines]
    assert len(frames) == 100
    assert {round(later["time_seconds"] - earlier["time_seconds"], 6) for earlier, later in pairwise(frames)} == {0.2}
    seen = {
        frame["time_seconds"]
        for frame in frames
        if any(detection["label"] == "person" for detection in frame["detections"])
    }
    assert not [seconds for seconds in seen if inside(seconds, NOBODY)]
    # A quantised model may miss a person in the middle of a stride.
    expected = [frame["time_seconds"] for frame in frames if inside(frame["time_seconds"], WHOLE_PERSON)]
    assert sum(seconds in seen for seconds in expected) >= 0.95 * len(expected)
    assert json.loads((out / "summary.json").read_text())["video"]["frames"] == 200


def test_a_demo_that_is_stopped_leaves_no_process(tmp_path: Path) -> None:
    with subprocess.Popen(DEMO, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        wait_until(lambda: len(children_of(demo.pid)) >= 3, "the service, S3 and SQS, and the model server")
        children = children_of(demo.pid)
        demo.send_signal(signal.SIGINT)
        status, _, errors = finish(demo)
    assert status == 130, errors
    assert "Traceback" not in errors
    assert not [pid for pid in children if runs(pid)]


def test_the_clip_is_small_enough_to_ship() -> None:
    assert CLIP.stat().st_size < 2 << 20
