"""Linters find nothing in the templates, and each check that is left out says why beside it.

checkov has an environment of its own, since it pins what others need newer: its test is left out unless `-m checkov`
asks for it, as `make test-checkov` does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.infra.template import INFRA, load

TEMPLATES = ("cluster.yaml", "eia.yaml")
CHECKOV = Path(os.environ.get("CHECKOV") or INFRA.parent / ".venv-checkov/bin/checkov")
LIMIT_SECONDS = 300

IGNORED_BY_CFN_LINT = {
    ("eia.yaml", "InferenceLaunchTemplate"): ["E3002"],
    ("eia.yaml", "NodesUseAccelerators"): ["W3037"],
}
SKIPPED_BY_CHECKOV = {
    "TaskQueue": ["CKV_AWS_27"],
    "TaskCompletedQueue": ["CKV_AWS_27"],
    "DeadLetterQueue": ["CKV_AWS_27"],
    "TaskDataBucket": ["CKV_AWS_18", "CKV_AWS_21"],
    "ResultsBucket": ["CKV_AWS_18", "CKV_AWS_21"],
    "ArtifactsBucket": ["CKV_AWS_18", "CKV_AWS_21"],
    "StepsRepository": ["CKV_AWS_136"],
    "ServingRepository": ["CKV_AWS_136"],
}


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=LIMIT_SECONDS, cwd=INFRA.parent)


def metadata(tool: str) -> dict[tuple[str, str], Any]:
    """What resources tell a linter."""
    return {
        (name, logical_id): resource["Metadata"][tool]
        for name in TEMPLATES
        for logical_id, resource in load(name)["Resources"].items()
        if tool in resource.get("Metadata", {})
    }


def test_cfn_lint_finds_nothing_with_all_its_checks() -> None:
    files = [INFRA / name for name in TEMPLATES]
    done = run(Path(sys.executable).with_name("cfn-lint"), "--include-checks", "I", "--template", *files)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def test_cfn_lint_leaves_out_two_checks_of_what_elastic_inference_took_with_it() -> None:
    found = {place: told["config"]["ignore_checks"] for place, told in metadata("cfn-lint").items()}
    assert found == IGNORED_BY_CFN_LINT
    # Nothing for a whole template.
    assert all("cfn-lint" not in load(name).get("Metadata", {}) for name in TEMPLATES)


def test_a_check_of_cfn_lint_is_left_out_with_its_reason_beside_it() -> None:
    lines = (INFRA / "eia.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        if "ignore_checks" in line:
            assert lines[number - 1].strip().startswith("# ")


def test_a_check_of_checkov_is_left_out_with_its_reason_beside_it() -> None:
    told = metadata("checkov")
    assert {name for name, _ in told} == {"cluster.yaml"}
    assert {place: [skip["id"] for skip in found["skip"]] for (_, place), found in told.items()} == SKIPPED_BY_CHECKOV
    for found in told.values():
        assert all(skip["comment"].endswith(".") for skip in found["skip"])


@pytest.mark.checkov
def test_checkov_finds_nothing_but_what_is_left_out() -> None:
    files = [argument for name in TEMPLATES for argument in ("--file", str(INFRA / name))]
    done = run(CHECKOV, "--framework", "cloudformation", "--skip-download", "--output", "json", *files)
    report = json.loads(done.stdout)
    failed = [(check["check_id"], check["resource"]) for check in report["results"]["failed_checks"]]
    assert (failed, report["results"]["parsing_errors"], done.returncode) == ([], [], 0)
    assert report["summary"]["passed"] > 100
    assert report["summary"]["skipped"] == sum(map(len, SKIPPED_BY_CHECKOV.values()))
