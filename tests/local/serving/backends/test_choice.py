"""Which backend serves what is named on the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.serving import backends
from local.serving.backends import default_model, find_loader
from steps.errors import UsageError
from steps.profile import load_profile

PROFILES = Path(backends.__file__).parents[1] / "profiles"


@pytest.mark.parametrize(
    ("model", "description"),
    [
        ("hog", "OpenCV HOG people detector"),
        ("null", "null"),
        ("coded", "coded"),
        (str(default_model()), f"LiteRT, {default_model().name}"),
    ],
)
def test_every_kind_of_model_can_be_loaded(model: str, description: str) -> None:
    backend = find_loader(model, threads=1)()
    assert backend.description == description
    backend.close()


@pytest.mark.parametrize("name", backends.BUILT_IN)
def test_every_built_in_backend_has_a_profile_that_fits_it(name: str) -> None:
    profile = load_profile(str(PROFILES / f"{name}.json"))
    backend = find_loader(name, threads=1)()
    backend.close()
    (input_name,), outputs = backend.signature.inputs, set(backend.signature.outputs)
    assert profile.input.name == input_name
    assert outputs == set(profile.outputs.model_dump().values())


def test_hog_and_the_sample_model_call_a_person_alike() -> None:
    sample, hog = load_profile("coco_ssd_mobilenet_v1_quant"), load_profile(str(PROFILES / "hog.json"))
    class_id = 0 + hog.class_id_offset
    assert hog.label_of_class_id[class_id] == sample.label_of_class_id[class_id] == "person"


def test_a_model_that_does_not_exist_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"no model at /nowhere/x\.tflite.*hog, null, coded"):
        find_loader("/nowhere/x.tflite", threads=1)


def test_a_file_of_another_kind_is_a_usage_error(tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"model\.onnx is no model that can be served"):
        find_loader(str(tmp_path / "model.onnx"), threads=1)


def test_without_samples_a_model_has_to_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_SAMPLES", tmp_path)
    with pytest.raises(UsageError, match="name a model with --model"):
        default_model()
