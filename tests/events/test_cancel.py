"""Ending runs on order."""

from __future__ import annotations

import re

import pytest

from events import cancel as module
from events.cancel import Cancelled, cancel, find_run, wait_for_end
from events.kubernetes import Namespace
from events.runs import FINALIZER, PHASE_LABEL
from steps.errors import NotFoundError, TimeLimitError
from tests.events.kubernetes_api import KubernetesApi, add_run, set_phase
from tests.local.command import reelscan

ID = "5d3e8a0c-9a43-4c8b-8d36-25f0a3b8e1aa"
DEADLINE_SECONDS = 60.0


def found(task_id: str) -> str:
    """Name of the run of a task."""
    with Namespace() as namespace:
        return find_run(namespace, task_id).metadata.name


def end(task_id: str) -> Cancelled:
    with Namespace() as namespace:
        return cancel(namespace, find_run(namespace, task_id))


def wait(name: str, timeout_seconds: float = DEADLINE_SECONDS) -> tuple[str, list[str]]:
    """The phase at the end, and those before."""
    phases: list[str] = []
    with Namespace() as namespace:
        return wait_for_end(namespace, name, timeout_seconds=timeout_seconds, told=phases.append), phases


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.01)


@pytest.mark.parametrize(("phase", "strategy"), [("Running", "Stop"), ("Pending", "Terminate"), ("", "Terminate")])
def test_a_run_is_stopped_and_one_that_has_not_begun_is_terminated(
    api: KubernetesApi, phase: str, strategy: str
) -> None:
    name = add_run(api, ID, phase=phase)
    before = api.get("workflows", name)
    assert end(ID) == Cancelled(name, phase, had_ended=False)
    after = api.get("workflows", name)
    assert after["spec"] == {**before["spec"], "shutdown": strategy}
    assert after["metadata"]["finalizers"] == before["metadata"]["finalizers"]


@pytest.mark.parametrize("phase", ["Running", "Pending"])
def test_a_run_by_hand_is_handed_to_the_reconciler(api: KubernetesApi, phase: str) -> None:
    name = add_run(api, ID, phase=phase, finalizers=("other/one",), labels={PHASE_LABEL: phase})
    api.add("sensors", "reelscan", metadata={})
    assert end(ID) == Cancelled(name, phase, had_ended=False)
    assert api.get("workflows", name)["metadata"]["finalizers"] == ["other/one", FINALIZER]


@pytest.mark.usefixtures("quick")
def test_a_run_by_hand_without_a_reconciler_keeps_its_exit_handler(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    name = add_run(api, ID, phase="Running", finalizers=())
    api.add("sensors", "of-others", metadata={})
    assert end(ID) == Cancelled(name, "Running", had_ended=False, is_held=False)
    api.before("^GET", lambda: None, times=4)
    api.before("^GET", lambda: set_phase(api, name, "Failed"))
    with Namespace() as namespace:
        assert wait_for_end(namespace, name, timeout_seconds=DEADLINE_SECONDS, force=False) == "Failed"
    assert api.get("workflows", name)["spec"]["shutdown"] == "Stop"


def test_a_user_who_may_not_see_a_reconciler_can_cancel_all_the_same(api: KubernetesApi) -> None:
    name = add_run(api, ID, phase="Pending", finalizers=())
    api.fail(403, "sensors", times=100)
    assert end(ID) == Cancelled(name, "Pending", had_ended=False, is_held=False)
    done = reelscan("cancel", ID, "--timeout", "0")
    assert "nothing reports it" in done.stdout


@pytest.mark.parametrize("phase", ["Succeeded", "Failed", "Error"])
def test_what_has_ended_is_left_as_it_is(api: KubernetesApi, phase: str) -> None:
    name = add_run(api, ID, phase=phase)
    assert end(ID) == Cancelled(name, phase, had_ended=True)
    assert api.count("^PATCH") == 0


@pytest.mark.parametrize("task_id", [ID, ID.upper(), f"{ID}-0", f"{ID}-12"])
def test_a_run_is_found_by_its_message_and_by_any_record_of_it(api: KubernetesApi, task_id: str) -> None:
    for message_id in ("another", ID):
        add_run(api, message_id)
    assert found(task_id) == f"task-{ID}"


def test_an_id_that_ends_like_a_record_is_looked_up_whole_first(api: KubernetesApi) -> None:
    for message_id in ("m", "m-1"):
        add_run(api, message_id)
    assert found("m-1") == "task-m-1"
    assert found("m-2") == "task-m"


def test_a_run_by_hand_is_found_by_its_uid(api: KubernetesApi) -> None:
    for number in range(3):
        api.add("workflows", f"reelscan-{number}", metadata={"uid": f"{number}{ID[1:]}"}, spec={}, status={})
    assert found(f"1{ID[1:]}") == "reelscan-1"


def test_a_task_without_a_run_is_told_with_the_namespace(api: KubernetesApi) -> None:
    add_run(api, "another")
    with pytest.raises(NotFoundError, match=f"task '{ID}' has no workflow in the namespace there"):
        found(ID)


@pytest.mark.parametrize(
    "task_id",
    [
        "",
        "..",
        "../another",
        "x/../../workflows/task-another",
        "/another",
        "%2e%2e%2fanother",
        "another?x=y",
        "another#x",
        "another/status",
        "another\n",
        "\x1b[31m\u202e",
        "{{another}}",
        "a" * 300,
        "é",
        "-1",
    ],
)
def test_a_hostile_task_id_never_becomes_another_path(api: KubernetesApi, task_id: str) -> None:
    add_run(api, "another", phase="Running")
    with pytest.raises(NotFoundError) as caught:
        found(task_id)
    assert str(caught.value).isprintable()
    lists = r"GET /apis/argoproj\.io/v1alpha1/namespaces/there/workflows\?[^ ]*"
    assert [line for line in api.requests if not re.fullmatch(lists, line)] == []


def test_dots_in_a_task_id_stay_part_of_a_name(api: KubernetesApi) -> None:
    with pytest.raises(NotFoundError):
        found("a..")
    assert api.requests[0] == "GET /apis/argoproj.io/v1alpha1/namespaces/there/workflows/task-a.."


@pytest.mark.usefixtures("quick")
def test_the_wait_ends_with_the_run(api: KubernetesApi) -> None:
    name = add_run(api, ID, phase="Running", shutdown="Stop")
    api.before("^GET", lambda: None, times=2)
    api.before("^GET", lambda: set_phase(api, name, "Failed"))
    assert wait(name) == ("Failed", ["Running", "Running", "Failed"])
    assert api.count("^PATCH") == 0


@pytest.mark.usefixtures("quick")
def test_the_wait_ends_when_the_run_is_gone(api: KubernetesApi) -> None:
    assert wait("task-gone") == ("deleted", [])


@pytest.mark.usefixtures("quick")
def test_a_run_that_does_not_end_by_itself_is_terminated_once(
    api: KubernetesApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.0)
    name = add_run(api, ID, phase="Running", shutdown="Stop")
    # Argo takes a moment.
    api.before("^GET", lambda: None, times=4)
    api.before("^GET", lambda: set_phase(api, name, "Failed"))
    assert wait(name)[0] == "Failed"
    assert api.get("workflows", name)["spec"]["shutdown"] == "Terminate"
    assert api.count("^PATCH") == 1


@pytest.mark.usefixtures("quick")
def test_a_run_that_never_ends_is_told(api: KubernetesApi) -> None:
    name = add_run(api, ID, shutdown="Stop")
    with pytest.raises(TimeLimitError, match=r"is still not begun after 0.05 s"):
        wait(name, 0.05)


class TestCommand:
    def test_the_end_is_waited_for_and_told(self, api: KubernetesApi) -> None:
        name = add_run(api, ID, phase="Running")
        api.before("^PATCH", lambda: set_phase(api, name, "Failed"))
        done = reelscan("cancel", ID)
        assert done.returncode == 0, done.stderr
        told, ended = done.stdout.splitlines()
        assert told.startswith(f"{name} was told to end")
        assert ended == f"{name} has ended: Failed"
        assert api.get("workflows", name)["spec"]["shutdown"] == "Stop"

    def test_without_a_timeout_nothing_is_waited_for(self, api: KubernetesApi) -> None:
        name = add_run(api, ID, phase="Running")
        done = reelscan("cancel", ID, "--timeout", "0")
        assert done.returncode == 0, done.stderr
        assert [line.split()[0] for line in done.stdout.splitlines()] == [name]

    def test_what_had_ended_is_told(self, api: KubernetesApi) -> None:
        name = add_run(api, ID, phase="Succeeded")
        done = reelscan("cancel", ID)
        assert (done.returncode, done.stdout) == (0, f"{name} had ended before: Succeeded\n")

    @pytest.mark.parametrize(("arguments", "status"), [(["nobody"], 3), ([ID, "--timeout", "0.1"], 4), ([], 2)])
    def test_an_error_is_one_line_and_a_status(self, api: KubernetesApi, arguments: list[str], status: int) -> None:
        add_run(api, ID, phase="Running")
        done = reelscan("cancel", *arguments)
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize("status", [409, 422])
    def test_a_run_that_cannot_be_changed_is_one_line_and_a_status(self, api: KubernetesApi, status: int) -> None:
        add_run(api, ID, phase="Running")
        api.fail(status, "^PATCH", times=100)
        done = reelscan("cancel", ID)
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1
