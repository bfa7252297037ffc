"""SavedModels: which folder is served, and what is said without TensorFlow. With it: make test-tensorflow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import numpy as np
import pytest

from local.serving.backends.savedmodel import version_folder
from steps.errors import UsageError
from steps.stubs import array_from_tensor
from tests.conformance.target import connected

SERVE = "from local.serving.command import serve; serve()"
DEADLINE_SECONDS = 300

MAKE_MODEL = """
import sys, tensorflow as tf

class Detector(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec([None, None, None, 3], tf.uint8, "input_tensor")])
    def detect(self, input_tensor):
        brightness = tf.reduce_mean(tf.cast(input_tensor, tf.float32), [1, 2, 3]) / 255
        return {"detection_scores": brightness[:, None], "num_detections": tf.ones_like(brightness)}

model = Detector()
tf.saved_model.save(model, sys.argv[1], signatures=model.detect)
"""


def touch_model(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"")


def test_a_folder_with_the_model_itself_is_served(tmp_path: Path) -> None:
    touch_model(tmp_path / "model")
    assert version_folder(tmp_path / "model") == tmp_path / "model"


def test_of_numbered_folders_the_highest_is_served(tmp_path: Path) -> None:
    for version in ("2", "10", "9"):
        touch_model(tmp_path / version)
    touch_model(tmp_path / "99-draft")  # no number
    (tmp_path / "11").mkdir()  # no model
    assert version_folder(tmp_path) == tmp_path / "10"


def test_a_folder_without_a_model_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    with pytest.raises(UsageError, match=r"no SavedModel in .*saved_model\.pb"):
        version_folder(tmp_path)


@pytest.mark.parametrize(
    ("before", "words"),
    [
        ("import sys; sys.modules['tensorflow'] = None", "pip install tensorflow"),
        ("import steps.stubs", "needs TensorFlow in a process of its own"),
    ],
)
def test_without_tensorflow_the_error_says_what_to_do(tmp_path: Path, before: str, words: str) -> None:
    touch_model(tmp_path / "model")
    program = f"""
{before}
from local.serving.backends import find_loader
from steps.errors import UsageError
try:
    find_loader({str(tmp_path / "model")!r}, 1)
except UsageError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=DEADLINE_SECONDS)
    assert words in done.stdout, done.stderr


@pytest.mark.tensorflow
def test_a_saved_model_is_served_over_grpc(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", MAKE_MODEL, tmp_path / "7"], check=True, timeout=DEADLINE_SECONDS)
    command = [sys.executable, "-c", SERVE, "--model", tmp_path, "--port=0", "--rest-port=0", "--threads=1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) as server:
        try:
            ready = server.stdout.readline()
            assert "(TensorFlow " in ready
            with connected(ready.split(" on grpc ")[1].split(",")[0], "ssd") as target:
                frames = np.stack([np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)])
                answer = target.predict(target.request({"input_tensor": frames}))
                assert array_from_tensor(answer.outputs["detection_scores"]).tolist() == [[0], [1]]
                wrong = target.request({"input_tensor": frames[..., :2]})
                with pytest.raises(grpc.RpcError) as refusal:
                    target.predict(wrong)
                assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
            server.send_signal(signal.SIGTERM)
            assert server.wait(DEADLINE_SECONDS) == 0
        finally:
            server.kill()
