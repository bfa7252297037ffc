"""`coco.json`: the detections in COCO's format, an image per analysed frame.

An image's id is its frame number. Annotations carry their `score`, so that their array is at once the one of COCO's
results format. Ids of annotations start at 1, since pycocotools takes 0 for "no match".
See https://cocodataset.org/#format-data.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from steps.plan import Plan
from steps.results.frames import read_frames
from steps.results.text import ArrayWriter, TextWriter
from steps.store import Store


class CocoWriter:
    """Writes the images. The annotations follow when all of them are there, from `frames.jsonl.gz`."""

    def __init__(self, text: TextWriter, plan: Plan) -> None:
        self._images = ArrayWriter(text)
        self._size = {"width": plan.video.width, "height": plan.video.height}

    def add(self, text: str, record: dict[str, Any]) -> None:
        """Write the frame's image; `text` is the same frame as a line."""
        frame = record["frame"]
        self._images.write(
            {
                "id": frame,
                "file_name": f"{frame:08d}.jpg",
                **self._size,
                "frame": frame,
                "time_seconds": record["time_seconds"],
            }
        )


@contextmanager
def open_coco(store: Store, key: str, plan: Plan) -> Iterator[CocoWriter]:
    """Write the file below RUN; at the block's end `frames.jsonl.gz` must be there. Raises StorageError."""
    info = {
        "description": f"Detections in {plan.source.url}",
        "model": {"name": plan.model.name, "version": plan.model.version},
    }
    with store.open_writer(key) as file:
        text = TextWriter(file)
        text.write(f'{{"info": {json.dumps(info, ensure_ascii=False)},\n"licenses": [],\n"images": [')
        yield CocoWriter(text, plan)
        text.write('],\n"annotations": [')
        names = _write_annotations(store, ArrayWriter(text))
        categories = [{"id": number, "name": names[number], "supercategory": ""} for number in sorted(names)]
        text.write(f'],\n"categories": {json.dumps(categories, ensure_ascii=False)}}}\n')
        text.close()


def _write_annotations(store: Store, annotations: ArrayWriter) -> dict[int, str]:
    """Write an annotation per detection; gives the name of each category that occurs."""
    names: dict[int, str] = {}
    number = 0
    for line in read_frames(store):
        for detection in line.record["detections"]:
            number += 1
            names[detection["class_id"]] = detection["label"]
            _, _, width, height = detection["box"]
            annotations.write(
                {
                    "id": number,
                    "image_id": line.record["frame"],
                    "category_id": detection["class_id"],
                    "bbox": detection["box"],
                    "area": round(width * height, 2),
                    "iscrowd": 0,
                    "score": detection["score"],
                }
            )
    return names
