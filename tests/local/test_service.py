"""The service: every message is done, reported and deleted, whatever it holds and whatever goes wrong."""

from __future__ import annotations

import json
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from rich.console import Console

from local.outcomes import raise_for_outcomes
from local.service import Service
from local.serving.server import ModelServer
from local.view import JobView
from steps import job as job_module
from steps.errors import ReelscanError, UsageError
from steps.job import GivenServer
from steps.ledger import Outbox
from steps.planner import load_plan
from steps.queues import ReceiptLostError
from steps.settings import Settings
from steps.store import open_store
from tests.faults import FaultProxy
from tests.gate import gated_server
from tests.local.command import wait_until
from tests.local.conftest import VISIBILITY_SECONDS, Deployment, Desk
from tests.media.bad_inputs import BadInputLibrary
from tests.media.library import ClipLibrary

CLIP = "h264_closed_gop.mp4"


@pytest.fixture
def key(deployment: Deployment, clips: ClipLibrary) -> str:
    """A video in the deployment's bucket."""
    return deployment.upload(clips[CLIP].path)


def test_a_task_is_done_reported_and_its_message_deleted(deployment: Deployment, desk: Desk, key: str) -> None:
    message_id = deployment.send_task(key, id="mine", fps=1)
    desk.serve()
    (completed,) = deployment.completed()
    assert (completed.task_id, completed.id, completed.status) == (message_id, "mine", "succeeded")
    assert completed.frames is not None
    assert completed.frames.analysed == completed.frames.planned == 11
    assert completed.results == f"{deployment.settings.results}/{completed.run}/"
    assert completed.error is None
    assert deployment.waiting() == (0, 0)
    assert deployment.dead_letters() == []
    entry = deployment.ledger().entry(message_id)
    assert entry is not None
    assert entry.sent
    assert f"task {message_id}" in desk.said


def test_results_can_go_to_a_folder(deployment: Deployment, coded_server: ModelServer, key: str, tmp_path: Any) -> None:
    settings = deployment.settings.model_copy(update={"results": str(tmp_path / "results")})
    deployment.send_task(key, fps=1)
    Desk(settings, GivenServer(coded_server.address, deployment.settings)).serve()
    (completed,) = deployment.completed()
    assert (tmp_path / "results" / str(completed.run) / "frames.jsonl.gz").is_file()


def test_a_second_task_of_the_same_video_is_answered_from_the_results(
    deployment: Deployment, desk: Desk, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deployment.send_task(key, fps=1)
    desk.serve()
    monkeypatch.setattr(job_module, "plan_in_process", None)  # computing would end in a TypeError
    deployment.send_task(key, fps=1, id="again")
    desk.serve()
    first, second = deployment.completed()
    assert (second.id, second.status, second.run) == ("again", "succeeded", first.run)


def test_every_record_of_a_notification_is_a_task(deployment: Deployment, desk: Desk, clips: ClipLibrary) -> None:
    names = ("first clip.mp4", "zweiter+clip.mp4")
    for name in names:
        deployment.upload(clips["h264_one_frame.mp4"].path, name)
    keys = ("first+clip.mp4", "zweiter%2Bclip.mp4", "not-there.mp4")
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": deployment.aws.bucket}, "object": {"key": key}}}
        for key in keys
    ]
    message_id = deployment.send(json.dumps({"Records": records}))
    desk.serve()
    completed = {message.task_id: message for message in deployment.completed()}
    assert list(completed) == [f"{message_id}-{number}" for number in range(3)]
    outcomes = [(message.status, message.task and message.task.object) for message in completed.values()]
    assert outcomes == [("succeeded", names[0]), ("succeeded", names[1]), ("failed", "not-there.mp4")]
    (letter,) = deployment.dead_letters()
    assert json.loads(letter["Body"]) == {"bucket": deployment.aws.bucket, "object": "not-there.mp4"}
    assert deployment.waiting() == (0, 0)


@pytest.mark.parametrize("key", ["two\nlines\r\n.mp4", "\x1b[31mred\x07\x00\x7f.mp4", "tab\tü 🚦 {{x}} %0A+&?#.mp4"])
@pytest.mark.parametrize("by_notification", [False, True])
def test_a_key_of_any_characters_goes_from_the_message_to_the_results_and_the_completed_message(
    key: str, by_notification: bool, deployment: Deployment, desk: Desk, clips: ClipLibrary
) -> None:
    deployment.upload(clips["h264_one_frame.mp4"].path, key)
    if by_notification:
        s3 = {"bucket": {"name": deployment.aws.bucket}, "object": {"key": urllib.parse.quote_plus(key)}}
        message_id = deployment.send(json.dumps({"Records": [{"eventName": "ObjectCreated:Put", "s3": s3}]}))
    else:
        message_id = deployment.send_task(key)
    desk.serve()
    (completed,) = deployment.completed()
    assert (completed.task_id, completed.status, completed.error) == (message_id, "succeeded", None)
    assert completed.task is not None
    assert completed.task.object == key
    assert completed.frames is not None
    assert completed.frames.analysed == 1
    store = open_store(completed.results or "", deployment.settings)
    assert load_plan(store).source.key == key
    assert json.loads(store.get("summary.json").data)["source"]["key"] == key
    assert store.exists("frames.jsonl.gz")
    assert "\x1b" not in desk.said
    assert deployment.waiting() == (0, 0)


@pytest.mark.parametrize("key", ["no\nvideo.mp4", "\x1b[31mno\x07video.mp4"])
def test_a_key_of_any_characters_comes_back_in_the_dead_letter(key: str, deployment: Deployment, desk: Desk) -> None:
    deployment.send_task(key)
    desk.serve()
    (completed,) = deployment.completed()
    assert completed.task is not None
    assert completed.task.object == key
    assert completed.error is not None
    assert completed.error.code == "not_found"
    (letter,) = deployment.dead_letters()
    assert json.loads(letter["Body"])["object"] == key
    assert "\x1b" not in letter["MessageAttributes"]["reason"]["StringValue"]


def test_the_test_event_of_s3_is_deleted_and_nothing_reported(deployment: Deployment, desk: Desk) -> None:
    deployment.send(json.dumps({"Service": "Amazon S3", "Event": "s3:TestEvent"}))
    desk.serve()
    assert deployment.completed() == []
    assert deployment.waiting() == (0, 0)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ("not JSON", "invalid_task"),
        ('{"bucket": "b"}', "invalid_task"),
        ('{"bucket": "b", "object": "o", "colour": "red"}', "invalid_task"),
        ('{"bucket": "b", "object": "o", "fps": "5"}', "invalid_task"),
        ('{"bucket": "no-such-bucket", "object": "../o\\n{{x}}"}', "not_found"),
    ],
)
def test_a_message_that_is_no_task_is_reported_and_goes_to_the_dead_letters(
    body: str, code: str, deployment: Deployment, desk: Desk
) -> None:
    message_id = deployment.send(body)
    desk.serve()
    (completed,) = deployment.completed()
    assert completed.status == "failed"
    assert completed.error is not None
    assert (completed.error.code, completed.error.step) == (code, "plan")
    (letter,) = deployment.dead_letters()
    assert letter["MessageAttributes"]["task_id"]["StringValue"] == message_id
    assert letter["MessageAttributes"]["code"]["StringValue"] == code
    assert deployment.waiting() == (0, 0)


def test_the_results_are_no_input(deployment: Deployment, desk: Desk) -> None:
    prefix = str(deployment.settings.results).removeprefix(f"s3://{deployment.aws.bucket}/")
    deployment.send_task(f"{prefix}/run/preview.mp4")
    desk.serve()
    (completed,) = deployment.completed()
    assert completed.error is not None
    assert completed.error.code == "access_denied"


@pytest.mark.parametrize(
    ("name", "code"), [("prose.mp4", "not_a_video"), ("encrypted.mp4", "unsupported"), ("huge.mp4", "too_large")]
)
def test_a_bad_video_fails_its_task_alone(
    name: str, code: str, deployment: Deployment, desk: Desk, bad_inputs: BadInputLibrary, key: str
) -> None:
    deployment.send_task(deployment.upload(bad_inputs[name].path, name))
    deployment.send_task(key, fps=1)
    desk.serve()
    outcomes = {message.task.object: message for message in deployment.completed() if message.task is not None}
    bad, good = outcomes[name], outcomes[key]
    assert bad.error is not None
    assert (bad.status, bad.error.code, bad.error.step) == ("failed", code, "plan")
    assert good.status == "succeeded"
    assert len(deployment.dead_letters()) == 1


def test_a_video_with_broken_parts_is_partial(deployment: Deployment, desk: Desk, clips: ClipLibrary) -> None:
    deployment.send_task(deployment.upload(clips["h264_broken_middle.mp4"].path), fps=0)
    desk.serve()
    (completed,) = deployment.completed()
    assert completed.status == "partial"
    assert completed.frames is not None
    assert {missing.code for missing in completed.frames.missing} == {"not_decodable"}
    assert deployment.dead_letters() == []


def test_a_model_that_the_server_does_not_have_fails_in_detect(
    deployment: Deployment, coded_server: ModelServer, key: str
) -> None:
    settings = deployment.settings.model_copy(update={"ready_timeout_seconds": 0.5})
    deployment.send_task(key, fps=1, model="another")
    Desk(settings, GivenServer(coded_server.address, settings)).serve()
    (completed,) = deployment.completed()
    assert completed.error is not None
    assert (completed.error.code, completed.error.step) == ("model_unavailable", "detect")
    assert completed.video is not None  # what planning found out is told


def test_a_defect_fails_its_task_and_the_next_is_done(
    deployment: Deployment, desk: Desk, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_source = job_module.open_source

    def defect(*_: Any) -> None:
        monkeypatch.setattr(job_module, "open_source", open_source)
        raise ZeroDivisionError("by chance")

    monkeypatch.setattr(job_module, "open_source", defect)
    first = deployment.send_task(key, fps=1)
    second = deployment.send_task(key, fps=1)
    desk.serve()
    completed = {message.task_id: message for message in deployment.completed()}
    assert sorted(message.status for message in completed.values()) == ["failed", "succeeded"]
    failed = next(message for message in completed.values() if message.status == "failed")
    assert failed.error is not None
    assert (failed.error.code, failed.error.message) == ("internal", "ZeroDivisionError: by chance")
    assert set(completed) == {first, second}
    assert "Traceback" in desk.said


def test_a_fault_of_the_deployment_is_not_the_senders(
    deployment: Deployment, coded_server: ModelServer, key: str
) -> None:
    settings = deployment.settings.model_copy(update={"model_profile": "nowhere.json"})
    deployment.send_task(key, fps=1)
    Desk(settings, GivenServer(coded_server.address, settings)).serve()
    (completed,) = deployment.completed()
    assert completed.error is not None
    assert completed.error.code == "internal"
    assert "model profile 'nowhere.json' is no file" in completed.error.message
    with pytest.raises(ReelscanError) as raised:
        raise_for_outcomes([completed])
    assert raised.value.exit_status == 1


def test_a_duplicate_of_a_message_is_not_reported_twice(
    deployment: Deployment, desk: Desk, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = deployment.send_task(key, fps=1)
    url = deployment.queue_url(deployment.settings.task_queue)
    delete = desk.service._queues.delete

    def delete_late(queue: str, receipt: str) -> None:
        """SQS may deliver a message again although it is about to be deleted."""
        deployment.aws.sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=receipt, VisibilityTimeout=0)
        monkeypatch.setattr(desk.service._queues, "delete", delete)

    monkeypatch.setattr(desk.service._queues, "delete", delete_late)
    desk.serve()
    assert [message.task_id for message in deployment.completed()] == [message_id]
    assert deployment.waiting() == (0, 0)
    assert f"task {message_id}" in desk.said
    assert "before" in desk.said


def test_a_message_stays_hidden_for_as_long_as_its_task_runs(deployment: Deployment, key: str) -> None:
    deployment.send_task(key, fps=1)
    url = deployment.queue_url(deployment.settings.task_queue)
    with gated_server() as (backend, address), ThreadPoolExecutor(1) as pool:
        desk = Desk(deployment.settings, GivenServer(address, deployment.settings))
        served = pool.submit(desk.serve)
        backend.wait_until_stuck()
        # This waits for longer than the message was hidden for at first.
        answer = deployment.aws.sqs.receive_message(QueueUrl=url, WaitTimeSeconds=round(2 * VISIBILITY_SECONDS))
        assert "Messages" not in answer
        backend.gate.set()
        served.result()
    assert [message.status for message in deployment.completed()] == ["succeeded"]
    assert deployment.waiting() == (0, 0)


def test_a_message_that_cannot_be_kept_hidden_is_told_once_and_its_task_goes_on(
    deployment: Deployment, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    message_id = deployment.send_task(key, fps=1)
    with gated_server() as (backend, address), ThreadPoolExecutor(1) as pool:
        desk = Desk(deployment.settings, GivenServer(address, deployment.settings))
        delete = desk.service._queues.delete

        def lost(*_: Any) -> None:
            raise ReceiptLostError

        def deleted_and_lost(*arguments: Any) -> None:
            delete(*arguments)
            raise ReceiptLostError

        monkeypatch.setattr(desk.service._queues, "set_visibility", lost)
        monkeypatch.setattr(desk.service._queues, "delete", deleted_and_lost)
        served = pool.submit(desk.serve)
        backend.wait_until_stuck()
        wait_until(lambda: "could not be kept hidden" in desk.said, "the note")
        backend.gate.set()
        served.result()
    assert [message.status for message in deployment.completed()] == ["succeeded"]
    assert desk.said.count(f"message {message_id}: ") == 1


def test_a_task_interrupted_is_visible_at_once_and_goes_on_later(deployment: Deployment, desk: Desk, key: str) -> None:
    deployment.send_task(key, fps=1)

    class Interrupted(GivenServer):
        def ensure_running(self) -> None:
            raise KeyboardInterrupt

    with gated_server() as (_, address):
        stopped = Desk(deployment.settings, Interrupted(address, deployment.settings))
        with pytest.raises(KeyboardInterrupt):
            stopped.serve()
    assert deployment.waiting() == (1, 0)
    assert deployment.completed() == []
    desk.serve()
    assert [message.status for message in deployment.completed()] == ["succeeded"]


def test_a_task_whose_report_was_cut_short_is_reported_by_the_next_one(
    deployment: Deployment, desk: Desk, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Died between writing the entry of the ledger and sending it."""
    message_id = deployment.send_task(key, fps=1)

    send = Outbox._send

    def die(*_: Any) -> None:
        monkeypatch.setattr(Outbox, "_send", send)
        raise KeyboardInterrupt

    monkeypatch.setattr(Outbox, "_send", die)
    with pytest.raises(KeyboardInterrupt):
        desk.serve()
    assert deployment.completed() == []
    desk.serve()
    assert [message.task_id for message in deployment.completed()] == [message_id]


@pytest.fixture
def quick_backoff(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("local.service.FIRST_BACKOFF_SECONDS", 0.05)


@pytest.fixture
def impatient(deployment: Deployment, faults: FaultProxy, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings by which S3 and SQS are given up soon."""
    return deployment.settings.model_copy(update={"queue_timeout_seconds": 3.0, "storage_timeout_seconds": 1.0})


@pytest.mark.usefixtures("quick_backoff")
def test_an_outage_of_the_queue_is_sat_out(
    deployment: Deployment, faults: FaultProxy, impatient: Settings, coded_server: ModelServer, key: str
) -> None:
    desk = Desk(impatient, GivenServer(coded_server.address, deployment.settings))
    faults.inject("lose_request", "ReceiveMessage", times=7)  # more than one request's retries
    deployment.send_task(key, fps=1)
    desk.serve()
    assert [message.status for message in deployment.completed()] == ["succeeded"]
    assert desk.said.count("trying again in") >= 2


@pytest.mark.usefixtures("quick_backoff")
def test_a_task_that_could_not_be_reported_comes_again_and_is_not_computed_again(
    deployment: Deployment, faults: FaultProxy, impatient: Settings, coded_server: ModelServer, key: str
) -> None:
    desk = Desk(impatient, GivenServer(coded_server.address, deployment.settings))
    faults.inject("lose_request", "SendMessage", times=3)  # all attempts of one request
    deployment.send_task(key, fps=1)
    desk.serve()
    (completed,) = deployment.completed()
    assert completed.status == "succeeded"
    assert desk.said.count("analysing frames: ") == 1
    assert deployment.waiting() == (0, 0)


@pytest.mark.parametrize("name", ["task_queue", "completed_queue", "dead_letter_queue"])
@pytest.mark.parametrize("place", ["no-such-queue", "http://127.0.0.1/123456789012/no-such-queue"])
def test_a_queue_that_is_not_there_is_told_before_any_work(name: str, place: str, deployment: Deployment) -> None:
    settings = deployment.settings.model_copy(update={name: place})
    service = Service(settings, GivenServer("127.0.0.1:1", settings), JobView(Console()))
    with pytest.raises(UsageError, match=f"no-such-queue' does not exist.*set REELSCAN_{name.upper()}"):
        service.check_places()


def test_a_bucket_for_results_that_is_not_there_is_told_before_any_work(deployment: Deployment) -> None:
    settings = deployment.settings.model_copy(update={"results": "s3://no-such-bucket-anywhere/reelscan"})
    service = Service(settings, GivenServer("127.0.0.1:1", settings), JobView(Console()))
    with pytest.raises(UsageError, match=r"no-such-bucket-anywhere/.* does not exist; .*REELSCAN_RESULTS"):
        service.check_places()


def test_a_deployment_that_is_complete_passes_the_check(
    deployment: Deployment, faults: FaultProxy, tmp_path: Any
) -> None:
    urls = {
        name: deployment.queue_url(getattr(deployment.settings, name))
        for name in ("task_queue", "completed_queue", "dead_letter_queue")
    }
    for changes in ({}, urls, {"results": str(tmp_path / "results")}):
        settings = deployment.settings.model_copy(update=changes)
        Service(settings, GivenServer("127.0.0.1:1", settings), JobView(Console())).check_places()
    # A queue's policy may well let the service send, and not ask.
    faults.inject("deny", "GetQueueAttributes", times=1000)
    by_url = deployment.settings.model_copy(update=urls)
    Service(by_url, GivenServer("127.0.0.1:1", by_url), JobView(Console())).check_places()
    assert faults.count("GetQueueAttributes") >= 3


@pytest.mark.parametrize("lacking", ["results", "task_queue", "completed_queue", "dead_letter_queue"])
def test_a_place_that_is_not_set_is_named(lacking: str, deployment: Deployment) -> None:
    settings = deployment.settings.model_copy(update={lacking: None})
    with pytest.raises(UsageError, match=f"REELSCAN_{lacking.upper()}"):
        Service(settings, GivenServer("127.0.0.1:1", deployment.settings), JobView(Console()))


def test_two_services_share_a_queue(deployment: Deployment, coded_server: ModelServer, clips: ClipLibrary) -> None:
    names = [f"{number}.mp4" for number in range(4)]
    for name in names:
        deployment.send_task(deployment.upload(clips["h264_one_frame.mp4"].path, name))
    desks = [Desk(deployment.settings, GivenServer(coded_server.address, deployment.settings)) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        for served in [pool.submit(desk.serve) for desk in desks]:
            served.result()
    done = {message.task.object for message in deployment.completed() if message.task is not None}
    assert done == set(names)
    assert deployment.waiting() == (0, 0)
