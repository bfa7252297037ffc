from __future__ import annotations

import gc
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from steps.aggregate import aggregate
from steps.errors import StorageError
from steps.plan import Plan
from steps.results import OUTPUT_KEYS, open_output
from steps.results.frames import read_frames
from steps.results.parquet import ROWS_A_GROUP, SCHEMA
from steps.settings import Settings
from steps.store import FolderStore, open_store
from steps.store import s3 as s3_module
from tests.conftest import Aws
from tests.faults import FaultProxy
from tests.steps.runs import LABELS, detections_of, make_run, pts_of, time_of, write_shards

FRAMES = list(range(0, 60, 5))


@pytest.fixture
def store(tmp_path: Path) -> FolderStore:
    return FolderStore(tmp_path / "run")


@pytest.fixture
def plan(store: FolderStore) -> Plan:
    """A run of which all results are there; frame 25 is missing."""
    plan = make_run(store, [FRAMES[:4], FRAMES[4:]])
    write_shards(store, plan, missing={25})
    aggregate(store, plan, list(OUTPUT_KEYS))
    return plan


def all_detections() -> list[tuple[int, dict[str, Any]]]:
    return [(frame, detection) for frame in FRAMES if frame != 25 for detection in detections_of(frame)]


def table_of(store: FolderStore) -> pa.Table:
    return pq.read_table(io.BytesIO(store.get("detections.parquet").data))


def json_of(store: FolderStore, key: str) -> Any:
    return json.loads(store.get(key).data)


def empty_run(store: FolderStore) -> Plan:
    """Frame 0 is the one without detections."""
    plan = make_run(store, [[0], [4, 8]])
    write_shards(store, plan)
    aggregate(store, plan, list(OUTPUT_KEYS))
    return plan


class TestFrames:
    def test_lines_are_read_back_as_text_and_parsed(self, store: FolderStore, plan: Plan) -> None:
        lines = list(read_frames(store))

        assert [line.record["frame"] for line in lines] == [frame for frame in FRAMES if frame != 25]
        assert all(json.loads(line.text) == line.record for line in lines)

    def test_damage_is_a_storage_error(self, store: FolderStore, plan: Plan) -> None:
        store.put("frames.jsonl.gz", store.get("frames.jsonl.gz").data[:-2])

        with pytest.raises(StorageError, match=r"frames\.jsonl\.gz is damaged"):
            list(read_frames(store))


class TestParquet:
    def test_there_is_a_row_per_detection_with_its_frame(self, store: FolderStore, plan: Plan) -> None:
        expected = [
            {
                "frame": frame,
                "time_seconds": time_of(frame),
                "pts": pts_of(frame),
                "label": detection["label"],
                "class_id": detection["class_id"],
                "score": detection["score"],
                **dict(zip(("x", "y", "width", "height"), detection["box"], strict=True)),
            }
            for frame, detection in all_detections()
        ]

        assert table_of(store).to_pylist() == expected

    def test_columns_have_types_also_without_any_row(self, store: FolderStore) -> None:
        empty_run(store)

        table = table_of(store)

        assert table.num_rows == 0
        assert table.schema.equals(SCHEMA)

    def test_row_groups_are_bounded(self, store: FolderStore) -> None:
        plan = make_run(store, [[0]])
        with open_output("parquet", store, plan) as writer:
            for frame in range(2000):
                writer.add("", {"frame": frame, "time_seconds": 0.0, "pts": None, "detections": detections_of(3) * 4})
        metadata = pq.read_metadata(io.BytesIO(store.get("detections.parquet").data))

        assert metadata.num_rows == 24000
        rows = [metadata.row_group(number).num_rows for number in range(metadata.num_row_groups)]
        assert max(rows) < ROWS_A_GROUP + 100
        assert len(rows) == 3
        assert table_of(store)["pts"].null_count == 24000

    @pytest.mark.parametrize("rows", [0, 5000])
    def test_a_store_that_fails_ends_in_its_own_error(
        self, aws: Aws, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch, rows: int
    ) -> None:
        # With small parts the store fails while pyarrow writes, and not only at the end.
        monkeypatch.setattr(s3_module, "PART_BYTES", 4096)
        store = open_store(f"s3://{aws.bucket}/run", Settings(storage_timeout_seconds=1))
        plan = make_run(store, [[0]])
        faults.inject("throttle", "(PUT|POST) .*parquet", times=1000)

        def write_rows() -> None:
            with open_output("parquet", store, plan) as writer:
                for frame in range(rows):
                    record = {"frame": frame, "time_seconds": frame / 7, "pts": frame, "detections": detections_of(3)}
                    writer.add("", record)

        with pytest.raises(StorageError, match="SlowDown"):
            write_rows()
        # What pyarrow leaves behind must not write either.
        gc.collect()

        assert not store.exists("detections.parquet")


class TestCoco:
    def test_images_are_the_analysed_frames(self, store: FolderStore, plan: Plan) -> None:
        images = json_of(store, "coco.json")["images"]

        assert images == [
            {
                "id": frame,
                "file_name": f"{frame:08d}.jpg",
                "width": 640,
                "height": 360,
                "frame": frame,
                "time_seconds": time_of(frame),
            }
            for frame in FRAMES
            if frame != 25
        ]

    def test_annotations_are_the_detections(self, store: FolderStore, plan: Plan) -> None:
        annotations = json_of(store, "coco.json")["annotations"]

        assert annotations == [
            {
                "id": number,
                "image_id": frame,
                "category_id": detection["class_id"],
                "bbox": detection["box"],
                "area": round(detection["box"][2] * detection["box"][3], 2),
                "iscrowd": 0,
                "score": detection["score"],
            }
            for number, (frame, detection) in enumerate(all_detections(), start=1)
        ]

    def test_categories_are_those_that_occur(self, store: FolderStore, plan: Plan) -> None:
        categories = json_of(store, "coco.json")["categories"]

        assert categories == [
            {"id": number, "name": name, "supercategory": ""} for number, name in enumerate(LABELS, start=1)
        ]

    def test_without_detections_all_arrays_are_there(self, store: FolderStore) -> None:
        empty_run(store)

        document = json_of(store, "coco.json")

        assert [image["id"] for image in document["images"]] == [0, 4, 8]
        assert (document["annotations"], document["categories"], document["licenses"]) == ([], [], [])


class TestRekognition:
    def test_it_is_an_answer_of_get_label_detection(self, store: FolderStore, plan: Plan) -> None:
        from botocore.session import get_session

        document = json_of(store, "rekognition.json")
        shape = get_session().get_service_model("rekognition").operation_model("GetLabelDetection").output_shape

        check_shape(document, shape)
        assert document["JobStatus"] == "SUCCEEDED"
        assert document["VideoMetadata"] == {
            "Codec": "h264",
            "DurationMillis": round(time_of(56) * 1000),
            "Format": "mov,mp4,m4a,3gp,3g2,mj2",
            "FrameRate": 25.0,
            "FrameHeight": 360,
            "FrameWidth": 640,
        }

    def test_a_label_has_an_instance_per_box_in_shares_of_the_picture(self, store: FolderStore) -> None:
        plan = make_run(store, [[7]])
        boxes = [[0.0, 0.0, 640.0, 360.0], [64.0, 36.0, 320.0, 90.0]]
        detections = [
            {"label": "person", "class_id": 1, "score": 0.5004, "box": boxes[1]},
            {"label": "tv", "class_id": 2, "score": 0.9, "box": boxes[0]},
            {"label": "person", "class_id": 1, "score": 0.7, "box": boxes[0]},
        ]
        with open_output("rekognition", store, plan) as writer:
            writer.add("", {"frame": 7, "time_seconds": time_of(7), "pts": pts_of(7), "detections": detections})

        whole = {"Width": 1.0, "Height": 1.0, "Left": 0.0, "Top": 0.0}
        part = {"Width": 0.5, "Height": 0.25, "Left": 0.1, "Top": 0.1}
        assert json_of(store, "rekognition.json")["Labels"] == [
            {
                "Timestamp": 280,
                "Label": {
                    "Name": "person",
                    "Confidence": 70.0,
                    "Instances": [
                        {"BoundingBox": part, "Confidence": 50.04},
                        {"BoundingBox": whole, "Confidence": 70.0},
                    ],
                    "Parents": [],
                },
            },
            {
                "Timestamp": 280,
                "Label": {
                    "Name": "tv",
                    "Confidence": 90.0,
                    "Instances": [{"BoundingBox": whole, "Confidence": 90.0}],
                    "Parents": [],
                },
            },
        ]

    def test_without_detections_there_are_no_labels(self, store: FolderStore) -> None:
        empty_run(store)

        assert json_of(store, "rekognition.json")["Labels"] == []


def check_shape(value: Any, shape: Any) -> None:
    """The value is one that botocore's model of the service has."""
    if shape.type_name == "structure":
        assert set(value) <= set(shape.members)
        for name, member in value.items():
            check_shape(member, shape.members[name])
    elif shape.type_name == "list":
        for member in value:
            check_shape(member, shape.member)
    else:
        kinds = {"string": str, "long": int, "integer": int, "float": float}
        assert isinstance(value, kinds[shape.type_name])
        assert not getattr(shape, "enum", None) or value in shape.enum
