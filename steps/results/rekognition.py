"""`rekognition.json`: the detections as Amazon Rekognition's GetLabelDetection answers them, in one page.

Fields: https://docs.aws.amazon.com/rekognition/latest/APIReference/API_GetLabelDetection.html. A label occurs once per
analysed frame that shows it, with an instance per box; its confidence is that of the best instance.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steps.plan import Plan
from steps.results.text import ArrayWriter, TextWriter
from steps.store import Store


class RekognitionWriter:
    """Writes the entries of `Labels`."""

    def __init__(self, text: TextWriter, plan: Plan) -> None:
        self._labels = ArrayWriter(text)
        self._width = plan.video.width
        self._height = plan.video.height

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Write the frame's labels; `text` is the same frame as a line."""
        instances: dict[str, list[dict[str, Any]]] = {}
        for detection in record["detections"]:
            instances.setdefault(detection["label"], []).append(self._instance(detection))
        for name, found in instances.items():
            confidence = max(instance["Confidence"] for instance in found)
            self._labels.write(
                {
                    "Timestamp": round(record["time_seconds"] * 1000),
                    "Label": {"Name": name, "Confidence": confidence, "Instances": found, "Parents": []},
                }
            )

    def _instance(self, detection: dict[str, Any]) -> dict[str, Any]:
        left, top, width, height = detection["box"]
        return {
            "BoundingBox": {
                "Width": round(width / self._width, 6),
                "Height": round(height / self._height, 6),
                "Left": round(left / self._width, 6),
                "Top": round(top / self._height, 6),
            },
            "Confidence": round(detection["score"] * 100, 2),
        }


@contextmanager
def open_rekognition(store: Store, key: str, plan: Plan) -> Iterator[RekognitionWriter]:
    """Write the file below RUN. Raises StorageError."""
    video = plan.video
    metadata = {
        "Codec": video.codec,
        "DurationMillis": round(video.duration_seconds * 1000),
        "Format": video.container,
        "FrameRate": video.fps,
        "FrameHeight": video.height,
        "FrameWidth": video.width,
    }
    with store.open_writer(key) as file:
        text = TextWriter(file)
        text.write(f'{{"JobStatus": "SUCCEEDED",\n"VideoMetadata": {json.dumps(metadata)},\n"Labels": [')
        yield RekognitionWriter(text, plan)
        model = json.dumps(f"{plan.model.name}/{plan.model.version}")
        text.write(f'],\n"LabelModelVersion": {model}}}\n')
        text.close()
