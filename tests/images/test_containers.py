"""What runs in the images, built with the container tool and started as a cluster starts them."""

from __future__ import annotations

import gzip
import io
import json
import re
import signal
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from images.build import measure_image
from images.size import exceeded, report
from images.tool import Tool
from local.aws import create_resources, embedded_aws, embedded_environment, endpoint_url
from steps.profile import load_profile
from tests.images.containers import Containers

pytestmark = pytest.mark.images

ROOT = Path(__file__).parents[2]
CLIP = ROOT / "samples" / "one-by-one-person.mp4"
GOAL_SECONDS = 0.5
SLOW = 4


@pytest.fixture
def show(capsys: pytest.CaptureFixture[str], pytestconfig: pytest.Config) -> Callable[[str], None]:
    """Prints a figure that is for people, whatever pytest captures."""

    def line(words: str) -> None:
        with capsys.disabled():
            pytestconfig.get_terminal_writer().line(f"\n{words}")

    return line


def python(containers: Containers, image: str, program: str, **environment: str) -> str:
    """The output of a Python program in an image."""
    status, said = containers.run(image, "-c", program, entry="python", environment=environment)
    assert status == 0, said
    return said


def test_the_steps_image_is_within_its_limits(tool: Tool, steps_image: str, show: Callable[[str], None]) -> None:
    size = measure_image(tool, steps_image)
    show(report(size))
    assert exceeded(size) == []
    assert {"av", "numpy", "pyarrow", "reelscan", "(base image)"} <= size.by_package.keys()


@pytest.mark.parametrize("image", ["steps_image", "embedded_image"])
def test_its_entry_point_is_reelscan(containers: Containers, image: str, request: pytest.FixtureRequest) -> None:
    status, said = containers.run(request.getfixturevalue(image), "--version")
    assert (status, re.sub(r"\d", "0", said)) == (0, "reelscan 0.0.0\n")


def test_it_runs_as_user_1000_and_can_write_to_tmp_alone(containers: Containers, steps_image: str) -> None:
    said = python(
        containers,
        steps_image,
        "import os, pathlib, tempfile\n"
        "print(os.getuid(), os.getgid(), pathlib.Path.home(), tempfile.gettempdir(), os.getcwd())\n"
        "for folder in ('/', '/opt/reelscan', '/usr/local', '/tmp'):\n"
        "    try: pathlib.Path(folder, 'probe').touch()\n"
        "    except OSError as error: print(error.strerror)\n",
    )
    assert said.splitlines() == ["1000 1000 /tmp /tmp /tmp", *["Read-only file system"] * 3]


def test_it_is_process_1(containers: Containers, steps_image: str) -> None:
    assert python(containers, steps_image, "import os; print(os.getpid())") == "1\n"


@pytest.mark.parametrize("module", ["pip", "setuptools", "hera", "moto", "cv2", "ai_edge_litert", "numpy.random.tests"])
def test_it_goes_without(containers: Containers, steps_image: str, module: str) -> None:
    program = (
        f"import importlib.util\ntry: print(importlib.util.find_spec({module!r}))\nexcept ImportError: print(None)"
    )
    assert python(containers, steps_image, program) == "None\n"


def test_every_module_of_the_steps_can_be_imported(containers: Containers, steps_image: str) -> None:
    program = (
        "import importlib, pkgutil, steps\n"
        "names = [m.name for m in pkgutil.walk_packages(steps.__path__, 'steps.')]\n"
        "names = [name for name in names if '._protos' not in name and not name.endswith('__main__')]\n"
        "[importlib.import_module(name) for name in names]\n"
        "print(len(names))\n"
    )
    assert int(python(containers, steps_image, program)) > 40


def test_nothing_is_compiled_at_a_start(containers: Containers, steps_image: str) -> None:
    program = (
        "import importlib, os, sys\n"
        "for name in ('boto3', 'obstore', 'av', 'grpc', 'pyarrow.parquet', 'steps.detect', 'steps.serving'):\n"
        "    importlib.import_module(name)\n"
        "specs = [module.__spec__ for module in sys.modules.values() if getattr(module, '__spec__', None)]\n"
        "ours = [spec for spec in specs if spec.cached and spec.origin.startswith('/opt/reelscan')]\n"
        "print(len(ours) > 300, [spec.name for spec in ours if not os.path.exists(spec.cached)])\n"
    )
    assert python(containers, steps_image, program) == "True []\n"


def test_what_credentials_come_from_is_there(containers: Containers, steps_image: str) -> None:
    program = (
        "import boto3\n"
        "session = boto3.Session(region_name='eu-west-1')\n"
        "for name in ('s3', 'sqs', 'sts', 'sso', 'sso-oidc', 'signin'):\n"
        "    print(session.client(name).meta.service_model.service_name)\n"
    )
    said = python(containers, steps_image, program)
    assert said.split() == ["s3", "sqs", "sts", "sso", "sso-oidc", "signin"]


def test_a_step_starts(containers: Containers, steps_image: str, show: Callable[[str], None]) -> None:
    """Prints the CPU seconds up to a step's first answer from S3; fails only for more than a slow machine explains."""
    program = (
        "import json, resource, subprocess, sys\n"
        "for number in range(6):\n"
        "    before = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    status = subprocess.run(['reelscan', *sys.argv[1:]], capture_output=True).returncode\n"
        "    after = resource.getrusage(resource.RUSAGE_CHILDREN)\n"
        "    print(status, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)\n"
    )
    task, run = ("--bucket=task-data-bucket", "--object=absent.mp4"), "--run=s3://results-bucket/absent"
    steps = [("plan", *task), ("detect", run, "--chunk=0"), ("aggregate", run, *task)]
    with embedded_aws() as port:
        create_resources(port)
        for step in steps:
            environment = embedded_environment(port, {})
            status, said = containers.run(steps_image, "-c", program, *step, entry="python", environment=environment)
            assert status == 0, said
            statuses, seconds = zip(*(line.split() for line in said.splitlines()), strict=True)
            assert set(statuses) == {"3"}
            middle = statistics.median(map(float, seconds[1:]))
            assert middle < SLOW * GOAL_SECONDS
            show(f"{step[0]} starts with {middle:.2f} s of CPU; the goal is {GOAL_SECONDS} s")


def test_the_whole_job_runs_in_the_images(containers: Containers, steps_image: str, embedded_image: str) -> None:
    with embedded_aws() as port, containers.started(embedded_image, "serve", "--port=0", "--rest-port=0") as server:
        create_resources(port)
        found = re.search(r"grpc (\S+),", server.wait_for_line("serving ssd version 1"))
        assert found is not None
        environment = embedded_environment(port, {})
        environment |= {"REELSCAN_SERVING": found[1], "REELSCAN_MODEL_PROFILE": "coco_ssd_mobilenet_v1_quant"}

        def step(*arguments: str) -> str:
            status, said = containers.run(steps_image, *arguments, environment=environment)
            assert status == 0, said
            return said

        s3 = _s3(port)
        s3.upload_file(str(CLIP), "task-data-bucket", "clip.mp4")
        task = ("--bucket=task-data-bucket", "--object=clip.mp4", "--fps=1")
        (run,) = json.loads(step("plan", *task).splitlines()[-1])
        for chunk in run["chunks"]:
            step("detect", f"--run={run['results']}", f"--chunk={chunk['index']}")
        step("aggregate", *task, f"--run={run['results']}", "--no-report")
        prefix = run["results"].removeprefix("s3://results-bucket/").rstrip("/")

        def result(name: str) -> bytes:
            return bytes(s3.get_object(Bucket="results-bucket", Key=f"{prefix}/{name}")["Body"].read())

        frames = [json.loads(line) for line in gzip.decompress(result("frames.jsonl.gz")).splitlines()]
        rows = pq.read_table(io.BytesIO(result("detections.parquet"))).to_pylist()
        assert len(frames) == 20
        expected = [
            (frame["frame"], found["label"], found["score"], *found["box"])
            for frame in frames
            for found in frame["detections"]
        ]
        keys = ("frame", "label", "score", "x", "y", "width", "height")
        assert [tuple(row[key] for key in keys) for row in rows] == expected
        assert "person" in {row["label"] for row in rows}
        server.send(signal.SIGTERM)
        assert server.wait()[0] == 0


def _s3(port: int):  # type: ignore[no-untyped-def]
    import boto3

    session = boto3.Session("tests", "tests", region_name="us-east-1")
    return session.client("s3", endpoint_url=endpoint_url(port))


def test_the_serving_image_holds_the_model_its_profile_and_its_warm_up(
    containers: Containers, serving_image: str, tmp_path: Path
) -> None:
    status, said = containers.run(serving_image, "/models", "-type", "f", "-perm", "-444", entry="find")
    assert status == 0
    assert sorted(said.split()) == [
        "/models/people/7/assets.extra/tf_serving_warmup_requests",
        "/models/people/7/saved_model.pb",
        "/models/people/7/variables/variables.index",
        "/models/people/reelscan.json",
    ]
    status, profile = containers.run(serving_image, "/models/people/reelscan.json", entry="cat")
    (tmp_path / "reelscan.json").write_text(profile)
    sample = load_profile(str(ROOT / "samples" / "reelscan.json"))
    assert load_profile(str(tmp_path / "reelscan.json")).digest() == sample.digest()


def test_a_server_that_is_process_1_does_not_stop_on_sigterm(containers: Containers, serving_image: str) -> None:
    """Why the image has an entry point of its own."""
    with containers.started(serving_image, entry="tensorflow_model_server") as running:
        running.wait_for_line("started")
        running.send(signal.SIGTERM)
        time.sleep(1)
        assert not running.has_ended()


@pytest.mark.parametrize("manner", ["", "ignore"])
def test_the_serving_image_stops_on_sigterm_with_status_0(
    containers: Containers, serving_image: str, manner: str
) -> None:
    environment = {"STAND_IN_MANNER": manner, "SERVING_STOP_SECONDS": "0.5"}
    with containers.started(serving_image, environment=environment) as running:
        flags = running.wait_for_line("--model_name")
        running.wait_for_line("started")
        running.send(signal.SIGTERM)
        assert running.wait()[0] == 0
        assert flags == "--model_name=people\n"


def test_the_serving_image_passes_the_servers_failure_on(containers: Containers, serving_image: str) -> None:
    status, _ = containers.run(serving_image, environment={"STAND_IN_MANNER": "fail"})
    assert status == 3
