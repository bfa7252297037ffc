"""`reelscan reconcile` as it is called."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.events.kubernetes_api import TASK, KubernetesApi, add_run
from tests.events.passes import (
    OWN,
    SHUT_DOWN,
    add_several,
    bury,
    failure,
    finalizers,
    report,
)
from tests.local.command import reelscan
from tests.local.conftest import Deployment


class TestCommand:
    COMMAND = ("reconcile", "--own-created-at", OWN.isoformat())

    def test_each_finding_is_a_line_and_the_figures_are_files(
        self, api: KubernetesApi, deployment: Deployment, tmp_path: Path
    ) -> None:
        names = add_several(api, 2)
        report(deployment, *failure(deployment.settings, "m1"))
        add_run(api, "m2", phase="Pending", shutdown="Stop", managedFields=SHUT_DOWN)
        bury(deployment)
        deployment.send(TASK)
        done = reelscan(*self.COMMAND, "--figures", str(tmp_path / "new" / "figures"))
        assert done.returncode == 0, done.stderr
        finding, figures = (json.loads(line) for line in done.stdout.splitlines())
        assert (finding["task_id"], finding["code"], finding["workflow"]) == ("m0", "stopped", names[0])
        due = {"reported": 1, "released": 2, "waiting": 1, "failures": 0, "dead_letters": 2, "queued": 1}
        assert figures == due
        files = {path.name: int(path.read_text()) for path in (tmp_path / "new" / "figures").iterdir()}
        assert files == due

    @pytest.mark.parametrize(("broken", "status"), [("entry", 4), ("object", 1)])
    def test_what_fails_is_a_line_and_a_status_after_all_others_are_done(
        self, api: KubernetesApi, deployment: Deployment, tmp_path: Path, broken: str, status: int
    ) -> None:
        names = add_several(api)
        if broken == "entry":
            deployment.ledger().store.create("m2.1.completed.json", b"{")
        else:
            # No API server would give that: any defect must not keep the others from being done.
            api.change("workflows", "task-m2", {"metadata": {"creationTimestamp": None}})
        done = reelscan(*self.COMMAND, "--figures", str(tmp_path))
        assert done.returncode == status
        assert len(done.stderr.splitlines()) == 1
        assert [name for name in names if finalizers(api, name)] == ["task-m2"]
        assert (tmp_path / "failures").read_text() == "1"
        assert len(done.stdout.splitlines()) == 5

    def test_without_a_list_there_is_one_line_and_a_status(self, api: KubernetesApi, deployment: Deployment) -> None:
        api.fail(410, times=1000)
        done = reelscan(*self.COMMAND)
        assert done.returncode == 4
        assert len(done.stderr.splitlines()) == 1

    @pytest.mark.parametrize(
        ("arguments", "variables", "said"),
        [
            ((), {"REELSCAN_RESULTS": ""}, "REELSCAN_RESULTS"),
            (("--own-created-at", "yesterday"), {}, "--own-created-at"),
            (("--own-created-at", "2026-01-31T12:00:00"), {}, "time zone"),
            ((), {"KUBECONFIG": "/nowhere"}, "KUBECONFIG"),
            (("extra",), {}, "extra"),
        ],
    )
    def test_wrong_usage_is_status_2(
        self,
        api: KubernetesApi,
        deployment: Deployment,
        monkeypatch: pytest.MonkeyPatch,
        arguments: tuple[str, ...],
        variables: dict[str, str],
        said: str,
    ) -> None:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        done = reelscan("reconcile", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert len(done.stderr.splitlines()) == 1
