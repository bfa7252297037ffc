"""The steps as pods run them: each a command that hands on files, reports what it can, and may be run again."""

from __future__ import annotations

import base64
import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from local.serving.server import ModelServer
from steps.cli import cli
from steps.errors import BadInputError, ModelUnavailableError, NotFoundError, TimeLimitError
from steps.lease import LEASE_KEY, Lease
from steps.options import Options
from steps.plan import Plan
from steps.planner import load_plan
from steps.settings import Settings
from steps.store import Store, open_store
from tests.coded import CODED_PROFILE, number_read
from tests.conftest import Aws
from tests.media.library import ClipLibrary

CLIP = "h264_closed_gop.mp4"
FRAMES = 301


class Deployment:
    """Buckets, queues and settings; `reelscan` runs a command in this process."""

    def __init__(self, aws: Aws, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.aws = aws
        self.folder = folder
        self._capsys = capsys
        self.completed_queue, self.dead_letter_queue = aws.make_queue(), aws.make_queue()

    @property
    def results(self) -> str:
        return f"s3://{self.aws.bucket}/results"

    def reelscan(self, *arguments: str) -> str:
        self._capsys.readouterr()
        cli.main([*arguments], standalone_mode=False)
        return self._capsys.readouterr().out

    def plan(self, *arguments: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Plan and report as a pod does; gives what it hands on."""
        runs, chunks = self.folder / "runs.json", self.folder / "chunks.json"
        self.reelscan("plan", *arguments, "--report", "--runs-file", str(runs), "--chunks-file", str(chunks))
        return json.loads(runs.read_text()), json.loads(chunks.read_text())

    def run_store(self, run: dict[str, Any]) -> Store:
        return open_store(self.results, Settings()).below(run["run"])

    def messages(self) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in self.aws.messages(self.completed_queue)]

    def dead_letters(self) -> list[dict[str, Any]]:
        return [json.loads(message["Body"]) for message in self.aws.messages(self.dead_letter_queue)]


@pytest.fixture
def deployment(
    aws: Aws, clips: ClipLibrary, coded_server: ModelServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> Deployment:  # fmt: skip
    made = Deployment(aws, tmp_path, capsys)
    aws.s3.upload_file(str(clips.path(CLIP)), aws.bucket, "clip.mp4")
    environment = {
        "RESULTS": made.results,
        "COMPLETED_QUEUE": made.completed_queue,
        "DEAD_LETTER_QUEUE": made.dead_letter_queue,
        "SERVING": coded_server.address,
        "MODEL_NAME": "coded",
        "MODEL_PROFILE": str(CODED_PROFILE),
        "FPS": "0",
        "CHUNK_SECONDS": "4",
        "OUTPUTS": "frames",
        "READY_TIMEOUT_SECONDS": "2",
    }
    for name, value in environment.items():
        monkeypatch.setenv(f"REELSCAN_{name}", value)
    return made


def task(deployment: Deployment, key: str = "clip.mp4", **fields: Any) -> list[str]:
    body = json.dumps({"bucket": deployment.aws.bucket, "object": key, **fields})
    return ["--body", base64.b64encode(body.encode()).decode(), "--message-id", "m-1"]


def notification(deployment: Deployment, *keys: str) -> list[str]:
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": deployment.aws.bucket}, "object": {"key": key}}}
        for key in keys
    ]
    return ["--body", base64.b64encode(json.dumps({"Records": records}).encode()).decode(), "--message-id", "m-1"]


def of_run(deployment: Deployment, run: dict[str, Any]) -> list[str]:
    return ["--run", f"{deployment.results}/{run['run']}", "--plan", run["plan"]]


def numbers(store: Store) -> list[int | None]:
    lines = gzip.decompress(store.get("frames.jsonl.gz").data).splitlines()
    return [number_read(json.loads(line)) for line in lines]


def test_plan_detect_and_aggregate_report_a_task_once(deployment: Deployment) -> None:
    given = task(deployment, id="mine")
    (run,), chunks = deployment.plan(*given)
    assert len(chunks["r0"]["detect"]) == 3
    assert run["alone"] == 0
    assert chunks["r0"]["detect_and_aggregate"] == []
    for chunk in chunks["r0"]["detect"]:
        deployment.reelscan(
            "detect", *of_run(deployment, run), "--chunk", str(chunk["index"]), "--lease-owner", "workflow-1"
        )
    for _ in range(2):
        deployment.reelscan("aggregate", *given, *of_run(deployment, run), "--lease-owner", "workflow-1")

    (message,) = deployment.messages()
    assert (message["task_id"], message["id"], message["status"]) == ("m-1", "mine", "succeeded")
    assert numbers(deployment.run_store(run)) == list(range(FRAMES))


def test_a_single_chunk_is_analysed_and_merged_by_one_pod(deployment: Deployment) -> None:
    given = task(deployment, chunk_seconds=100)
    (run,), chunks = deployment.plan(*given)
    assert run["alone"] == 1
    assert chunks["r0"]["detect"] == []
    (chunk,) = chunks["r0"]["detect_and_aggregate"]

    deployment.reelscan("aggregate", *given, *of_run(deployment, run), "--chunk", str(chunk["index"]))

    (message,) = deployment.messages()
    assert message["frames"]["analysed"] == FRAMES


def test_the_one_chunk_of_several_that_lacks_does_not_keep_the_others_from_being_merged(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = task(deployment)
    (run,), chunks = deployment.plan(*first)
    *there, _ = chunks["r0"]["detect"]
    for chunk in there:
        deployment.reelscan("detect", *of_run(deployment, run), "--chunk", str(chunk["index"]))
    deployment.reelscan("aggregate", *first, *of_run(deployment, run))

    again = [*first[:-1], "m-2"]
    (left,), chunks = deployment.plan(*again)
    assert (left["run"], left["alone"]) == (run["run"], 0)
    assert chunks["r0"]["detect_and_aggregate"] == []
    (lacking,) = chunks["r0"]["detect"]
    with monkeypatch.context() as gone:
        gone.setenv("REELSCAN_SERVING", "127.0.0.1:1")
        with pytest.raises(ModelUnavailableError):
            deployment.reelscan("detect", *of_run(deployment, left), "--chunk", str(lacking["index"]))
    deployment.reelscan("aggregate", *again, *of_run(deployment, left))

    told = [(message["task_id"], message["status"]) for message in deployment.messages()]
    assert told == [("m-1", "partial"), ("m-2", "partial")]


def test_what_plan_hands_on_holds_nothing_of_the_message(deployment: Deployment, clips: ClipLibrary) -> None:
    key = "{{workflow.uid}} {{=1+}} $(id).mp4"
    deployment.aws.s3.upload_file(str(clips.path(CLIP)), deployment.aws.bucket, key)
    deployment.plan(*task(deployment, key, id="{{=2+}}"))
    handed_on = (deployment.folder / "runs.json").read_text() + (deployment.folder / "chunks.json").read_text()
    assert "{{" not in handed_on
    assert "workflow" not in handed_on


def test_the_names_of_chunks_are_such_as_argo_allows_for_nodes(deployment: Deployment) -> None:
    """Argo Workflows 4.0.2, workflow/controller/operator.go: the pattern of a display name."""
    _, chunks = deployment.plan(*task(deployment))
    names = [chunk["name"] for chunk in chunks["r0"]["detect"]]
    assert names == ["1-of-3.0m00s-to-0m04s", "2-of-3.0m04s-to-0m08s", "3-of-3.0m08s-to-0m11s"]


def test_records_of_a_notification_are_planned_each_for_itself(deployment: Deployment) -> None:
    runs, chunks = deployment.plan(*notification(deployment, "clip.mp4", "missing.mp4", "clip.mp4"))

    assert [run["record"] for run in runs] == [0, 2]
    assert set(chunks) == {"r0", "r2"}
    (message,) = deployment.messages()
    assert (message["task_id"], message["error"]["code"]) == ("m-1-1", "not_found")
    assert deployment.dead_letters() == [{"bucket": deployment.aws.bucket, "object": "missing.mp4"}]


def test_a_task_that_cannot_be_done_is_reported_by_plan_and_ends_it_with_bad_input(deployment: Deployment) -> None:
    with pytest.raises(NotFoundError):
        deployment.plan(*task(deployment, "missing.mp4"))
    # Nor does a second pod succeed, which finds it reported.
    with pytest.raises(BadInputError, match=r"not_found; the task is reported as failed"):
        deployment.plan(*task(deployment, "missing.mp4"))
    (message,) = deployment.messages()
    assert (message["status"], message["error"]["step"]) == ("failed", "plan")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fps=banana"], "fps"),
        (["--start=5", "--end=4"], "end_seconds"),
        (["--object="], "object"),
        (["--force=maybe"], "force"),
        (["--labels=wolpertinger"], "wolpertinger"),
    ],
)
def test_wrong_parameters_of_a_run_by_hand_are_answered_with_a_message(
    deployment: Deployment, arguments: list[str], said: str
) -> None:
    by_hand = ["--bucket", deployment.aws.bucket, "--object", "clip.mp4", "--message-id", "uid-1", *arguments]
    with pytest.raises(BadInputError):
        deployment.plan(*by_hand)
    (message,) = deployment.messages()
    assert (message["task_id"], message["error"]["code"]) == ("uid-1", "invalid_task")
    assert said in message["error"]["message"]


def test_parameters_that_are_empty_are_the_deployment_s_defaults(deployment: Deployment) -> None:
    empty = [f"--{name}=" for name in ("fps", "start", "end", "max-frames", "labels", "model", "force", "id", "body")]
    _, chunks = deployment.plan("--bucket", deployment.aws.bucket, "--object", "clip.mp4", *empty)
    assert len(chunks["r0"]["detect"]) == 3


def test_a_task_whose_results_exist_is_answered_by_plan_alone(deployment: Deployment) -> None:
    given = task(deployment, chunk_seconds=100)
    (run,), _ = deployment.plan(*given)
    deployment.reelscan("aggregate", *given, *of_run(deployment, run), "--chunk", "0")
    artifacts = deployment.folder / "artifacts"
    artifacts.mkdir()
    for of_another in ("coco.json", "missing.jsonl.gz", "notes.txt"):
        (artifacts / of_another).touch()

    again = [*given[:-1], "m-2"]
    runs, chunks = deployment.plan(*again, "--artifacts", str(artifacts))

    assert (runs, chunks) == ([], {})
    assert [message["task_id"] for message in deployment.messages()] == ["m-1", "m-2"]
    assert sorted(path.name for path in artifacts.iterdir()) == ["frames.jsonl.gz", "notes.txt", "summary.json"]


def test_a_chunk_that_another_workflow_computes_is_waited_for(deployment: Deployment) -> None:
    given = task(deployment, chunk_seconds=100)
    (run,), _ = deployment.plan(*given)
    store = deployment.run_store(run)
    other = Lease(store, 600.0, "workflow-2")
    other.acquire(10)
    with ThreadPoolExecutor(1) as pool:
        merging = pool.submit(
            cli.main,
            ["aggregate", *given, *of_run(deployment, run), "--chunk", "0", "--lease-owner", "workflow-1"],
            standalone_mode=False,
        )
        with pytest.raises(TimeoutError):
            merging.result(timeout=1.0)
        assert [key for key in store.list("chunks/") if key.endswith("-300.jsonl.gz")] == []
        other.release()
        merging.result(timeout=60)
    (message,) = deployment.messages()
    assert message["status"] == "succeeded"
    assert json.loads(store.get(LEASE_KEY).data)["released"] is True


def test_a_chunk_that_has_its_shard_is_not_analysed_again(deployment: Deployment) -> None:
    (run,), _ = deployment.plan(*task(deployment))
    arguments = ["detect", *of_run(deployment, run), "--chunk", "1", "--lease-owner", "workflow-1"]
    assert json.loads(deployment.reelscan(*arguments))["frames"] > 0
    assert deployment.reelscan(*arguments) == "the chunk had been analysed\n"


def test_pods_go_on_with_the_plan_that_they_were_given(deployment: Deployment) -> None:
    """Another task of the same run may write a plan of its own meanwhile, with other chunks."""
    (run,), _ = deployment.plan(*task(deployment))
    (forced,), _ = deployment.plan(*task(deployment, force=True, chunk_seconds=100))
    assert forced["run"] == run["run"]
    assert forced["plan"] != run["plan"]

    for index in range(3):
        deployment.reelscan("detect", *of_run(deployment, run), "--chunk", str(index))
    deployment.reelscan("aggregate", *task(deployment), *of_run(deployment, run))

    assert numbers(deployment.run_store(run)) == list(range(FRAMES))


def test_a_run_of_which_no_frame_was_analysed_is_reported_and_ends_with_bad_input(deployment: Deployment) -> None:
    given = task(deployment)
    (run,), chunks = deployment.plan(*given)
    for chunk in chunks["r0"]["detect"]:
        with pytest.raises(ModelUnavailableError):
            deployment.reelscan(
                "detect", *of_run(deployment, run), "--chunk", str(chunk["index"]), "--serving", "127.0.0.1:1"
            )
    for _ in range(2):
        with pytest.raises(BadInputError, match="model_unavailable"):
            deployment.reelscan("aggregate", *given, *of_run(deployment, run))

    (message,) = deployment.messages()
    assert (message["status"], message["error"]["code"]) == ("failed", "model_unavailable")


def test_a_step_that_gives_up_leaves_its_reason_to_finish(deployment: Deployment) -> None:
    given = task(deployment, chunk_seconds=100)
    (run,), _ = deployment.plan(*given)
    with pytest.raises(ModelUnavailableError):
        deployment.reelscan("aggregate", *given, *of_run(deployment, run), "--chunk", "0", "--serving", "127.0.0.1:1")
    assert deployment.messages() == []

    deployment.reelscan("finish", *given, "--code", "internal", "--message", "a pod failed")

    (message,) = deployment.messages()
    assert message["error"]["code"] == "model_unavailable"


def test_job_does_all_of_a_message_and_reports_each_task(deployment: Deployment) -> None:
    given = notification(deployment, "clip.mp4", "missing.mp4")
    for _ in range(2):
        deployment.reelscan("job", *given, "--processes", "1", "--lease-owner", "workflow-1")

    assert [(m["task_id"], m["status"]) for m in deployment.messages()] == [("m-1-0", "succeeded"), ("m-1-1", "failed")]


def test_job_without_a_server_leaves_its_reason_and_can_be_tried_again(
    deployment: Deployment, coded_server: ModelServer
) -> None:
    given = task(deployment)
    with pytest.raises((ModelUnavailableError, TimeLimitError)):
        deployment.reelscan("job", *given, "--serving", "127.0.0.1:1", "--lease-owner", "workflow-1")
    assert deployment.messages() == []

    deployment.reelscan("job", *given, "--lease-owner", "workflow-1")

    (message,) = deployment.messages()
    assert message["status"] == "succeeded"


def test_job_ends_with_bad_input_if_no_task_could_be_done(deployment: Deployment) -> None:
    with pytest.raises(NotFoundError):
        deployment.reelscan("job", *task(deployment, "missing.mp4"))
    with pytest.raises(BadInputError, match=r"not_found; the task is reported as failed"):
        deployment.reelscan("job", *task(deployment, "missing.mp4"))
    (message,) = deployment.messages()
    assert message["error"]["code"] == "not_found"


def test_two_who_plan_a_run_at_once_go_on_with_one_plan(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else neither would find the other's shards, and each would compute the run."""
    seen: list[Plan | None] = []

    def not_found_yet(store: Store, options: Options) -> Plan | None:
        seen.append(None)
        return None

    monkeypatch.setattr("steps.job.find_plan", not_found_yet)
    (first,), _ = deployment.plan(*task(deployment, chunk_seconds=4))
    (second,), chunks = deployment.plan(*task(deployment, chunk_seconds=100))

    assert len(seen) == 2
    assert (second["run"], second["plan"]) == (first["run"], first["plan"])
    assert len(chunks["r0"]["detect"]) == 3


def test_a_plan_that_cannot_be_read_is_replaced(deployment: Deployment) -> None:
    (first,), _ = deployment.plan(*task(deployment))
    deployment.run_store(first).put("plan.json", b"{}")
    (second,), _ = deployment.plan(*task(deployment, chunk_seconds=100))
    assert second["plan"] != first["plan"]
    assert load_plan(deployment.run_store(first)).plan == second["plan"]


def test_a_step_waits_for_another_workflow_s_no_longer_than_it_may(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pod would be ended instead, and not be tried again."""
    monkeypatch.setenv("REELSCAN_LEASE_WAIT_SECONDS", "0.2")
    given = task(deployment)
    (run,), _ = deployment.plan(*given)
    with Lease(deployment.run_store(run), 600.0, "workflow-2"):
        for step in (["detect", "--chunk", "0"], ["aggregate", *given]):
            with pytest.raises(TimeLimitError, match="workflow-2") as raised:
                deployment.reelscan(*step, *of_run(deployment, run), "--lease-owner", "workflow-1")
            assert raised.value.exit_status == 4
