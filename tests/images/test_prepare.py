"""What is baked into the serving image: the model's layout, its profile and its warm-up request."""

from __future__ import annotations

import json
import shutil
import stat
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from images.serving.prepare import (
    WARMUP_FILE,
    crc32c,
    prepare,
    serving_signature,
    version_folder,
    warmup_record,
    warmup_request,
)
from steps.errors import ModelMismatchError, NotFoundError, UsageError
from steps.profile import load_profile
from steps.signature import InputSpec
from steps.stubs import DT_FLOAT, PredictRequest, array_from_tensor
from tests.images.saved_models import OUTPUTS, detection_signature, write_saved_model

ROOT = Path(__file__).parents[2]
SAMPLE_PROFILE = ROOT / "samples" / "reelscan.json"

# Made with TensorFlow 2.21's TFRecordWriter and prediction_log_pb2 of tensorflow-serving-api 2.21.
TENSORFLOWS_RECORD = bytes.fromhex(
    "5b000000000000001b01028a32590a570a160a037373641a0f73657276696e675f64656661756c7412250a05696d616765121c080112121202"
    "0802120308ac02120308c801120208032a04000000001a05626f7865731a0673636f7265731a07636c61737365734b257256"
)


def warmup_of(version: Path) -> PredictRequest:
    """The request in a version's warm-up file, whose one record is longer than 127 bytes."""
    record = (version / WARMUP_FILE).read_bytes()
    (length,) = struct.unpack_from("<Q", record)
    assert len(record) == 12 + length + 4
    assert (record[12], record[15]) == (0x32, 0x0A)
    return PredictRequest.FromString(record[18:-4])


def test_the_warm_up_record_is_the_one_that_tensorflow_writes() -> None:
    spec = InputSpec("image", 200, 300, np.dtype(np.float32), None, ("boxes", "scores", "classes"), False)
    assert warmup_record(warmup_request(spec, "ssd", 2)) == TENSORFLOWS_RECORD


@pytest.mark.parametrize(
    ("data", "checksum"),
    [(b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (b"", 0)],  # RFC 3720, B.4
)
def test_the_checksum_is_castagnolis(data: bytes, checksum: int) -> None:
    assert crc32c(data) == checksum


def test_the_warm_up_request_has_the_shape_and_outputs_of_every_request_of_a_run(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    shutil.copy(SAMPLE_PROFILE, model)
    prepare(model, tmp_path / "models" / "ssd", "ssd", 8)
    request = warmup_of(tmp_path / "models" / "ssd" / "1")
    assert request.model_spec.name == "ssd"
    assert request.model_spec.signature_name == "serving_default"
    pictures = array_from_tensor(request.inputs["input_tensor"])
    assert (pictures.shape, pictures.dtype, pictures.max()) == ((8, 300, 300, 3), np.uint8, 0)
    assert set(request.output_filter) == set(OUTPUTS)


def test_a_model_with_a_fixed_batch_of_floats_is_warmed_up_with_just_that(tmp_path: Path) -> None:
    signature = detection_signature(DT_FLOAT, (1, 320, 320, 3))
    model = write_saved_model(tmp_path / "model", {"serving_default": signature})
    prepare(model, tmp_path / "out", "ssd", 8)
    pictures = array_from_tensor(warmup_of(tmp_path / "out" / "1").inputs["input_tensor"])
    assert (pictures.shape, pictures.dtype) == ((1, 320, 320, 3), np.float32)


def test_a_models_own_warm_up_is_kept(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    (model / WARMUP_FILE).parent.mkdir()
    (model / WARMUP_FILE).write_bytes(b"its own")
    prepare(model, tmp_path / "out", "ssd", 8)
    assert (tmp_path / "out" / "1" / WARMUP_FILE).read_bytes() == b"its own"


def test_of_several_versions_the_highest_is_taken_under_its_number(tmp_path: Path) -> None:
    for version in ("2", "10", "9", "old"):
        write_saved_model(tmp_path / "model" / version)
    assert version_folder(tmp_path / "model").name == "10"
    prepare(tmp_path / "model", tmp_path / "out", "ssd", 8)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["10", "reelscan.json"]
    assert (tmp_path / "out" / "10" / "variables" / "variables.index").read_bytes() == b"values"


@pytest.mark.parametrize("place", ["model", "model/3"])
def test_the_profile_in_or_beside_the_version_comes_along_with_the_same_meaning(tmp_path: Path, place: str) -> None:
    write_saved_model(tmp_path / "model" / "3")
    shutil.copy(SAMPLE_PROFILE, tmp_path / place)
    profile, _ = prepare(tmp_path / "model", tmp_path / "out", "ssd", 8)
    sample = load_profile(str(SAMPLE_PROFILE)).digest()
    assert profile.digest() == sample
    assert load_profile(model_path=tmp_path / "out" / "3").digest() == sample


def test_without_a_profile_the_object_detection_apis_is_written_down(tmp_path: Path) -> None:
    prepare(write_saved_model(tmp_path / "model"), tmp_path / "out", "ssd", 8)
    assert load_profile(model_path=tmp_path / "out" / "1").digest() == load_profile().digest()


def test_whoever_the_server_runs_as_can_read_all_of_it(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    (model / "saved_model.pb").chmod(0o600)
    (model / "variables").chmod(0o700)
    prepare(model, tmp_path / "out", "ssd", 8)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*")}
    assert modes == {0o755, 0o644}


def test_a_profile_that_does_not_fit_the_signature_is_refused(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    profile = json.loads(SAMPLE_PROFILE.read_text())
    profile["outputs"]["boxes"] = "boxes"
    (model / "reelscan.json").write_text(json.dumps(profile))
    with pytest.raises(ModelMismatchError, match=r"outputs\.boxes is 'boxes', the server's outputs are"):
        prepare(model, tmp_path / "out", "ssd", 8)
    assert not (tmp_path / "out").exists()


def test_a_broken_profile_is_refused(tmp_path: Path) -> None:
    model = write_saved_model(tmp_path / "model")
    (model / "reelscan.json").write_text("{")
    with pytest.raises(UsageError, match="no JSON"):
        prepare(model, tmp_path / "out", "ssd", 8)


def test_a_folder_without_a_saved_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"name a folder with saved_model\.pb"):
        prepare(tmp_path, tmp_path / "out", "ssd", 8)


def test_a_file_that_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    (tmp_path / "saved_model.pb").write_bytes(b"\xff" * 40)
    with pytest.raises(ModelMismatchError, match="is no SavedModel"):
        serving_signature(tmp_path / "saved_model.pb")


@pytest.mark.parametrize(
    ("signatures", "tags"),
    [({"other": detection_signature()}, ("serve",)), ({"serving_default": detection_signature()}, ("train",))],
)
def test_a_model_without_the_signature_that_is_served_is_refused(
    tmp_path: Path, signatures: dict, tags: tuple[str, ...]
) -> None:
    model = write_saved_model(tmp_path, signatures, tags)
    with pytest.raises(ModelMismatchError, match="no signature 'serving_default' under the tag 'serve'"):
        serving_signature(model / "saved_model.pb")


@pytest.mark.parametrize(
    ("folder", "status", "words"),
    [("model", 0, "ssd: uint8 [4, 640, 640, 3], profile "), ("absent", 3, "prepare: no SavedModel in ")],
)
def test_as_a_program_it_says_what_it_made_or_why_not(tmp_path: Path, folder: str, status: int, words: str) -> None:
    write_saved_model(tmp_path / "model")
    program = ROOT / "images" / "serving" / "prepare.py"
    done = subprocess.run(
        [sys.executable, program, tmp_path / folder, tmp_path / "out", "--model-name=ssd", "--batch-size=4"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == status
    assert (done.stdout + done.stderr).startswith(words)
    assert len((done.stdout + done.stderr).splitlines()) == 1
