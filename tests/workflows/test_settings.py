"""Settings: what may be set, and what is said of what may not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from steps.errors import UsageError
from steps.options import Options
from steps.settings import Settings
from workflows import Resources, WorkflowSettings, load_settings
from workflows.settings import Placement, Serving, Toleration, amount, known_limits


def refused(*changes: str) -> str:
    with pytest.raises(UsageError) as caught:
        load_settings(None, list(changes))
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("retires=4", "no setting is named retires; the most similar is retries"),
        ("serving.imge=a/b", "no setting is named serving.imge; the most similar is serving.image"),
        ("inference_nodes={tolerations: [{ky: a}]}", "the most similar is inference_nodes.tolerations.0.key"),
        ("fps=2", "fps is a setting of the steps; write limits.fps"),
        ("limits.max_chunk=4", "'max_chunk' is not known; the most similar is max_chunks"),
        ("limits.max_chunks=4000", "limits.max_chunks='4000': allowed is a whole number from 1 to 1000"),
        ("limits.fps=many", "limits.fps: 'many' is not a number"),
        ("limits.results=s3://b/p", "results does not belong here; set results instead"),
        (
            "limits.chunk_timeout_seconds=9",
            "chunk_timeout_seconds does not belong here; set chunk_limit_seconds instead",
        ),
        ("limits.ready_timeout_seconds=9", "set serving.start_seconds instead"),
        ("limits.task_queue=q", "task_queue does not belong here; set task_queue instead"),
        ("retries=many", 'retries="many": allowed is a whole number'),
        ("serving=null", "serving=null: allowed is settings by name"),
        ("serving.image=4", "serving.image=4: allowed is text"),
        ("serving.command=[]", "serving.command=[]: "),
        ("image_pull_policy=always", "image_pull_policy=\"always\": allowed is 'Always', 'IfNotPresent' or 'Never'"),
        ("accelerator=tpu", "accelerator=\"tpu\": allowed is 'cpu' or 'gpu'"),
        ("detect_resources.memory=lots", 'detect_resources.memory="lots": allowed is an amount such as 500m'),
        ("detect_resources.memory=1GB", "allowed is an amount such as"),
        ("detect_resources.memory_after_failure=100Mi", "allowed is at least memory, 1Gi"),
        ("results=/tmp/results", 'results="/tmp/results": allowed is s3://BUCKET/PREFIX'),
        ("results='s3://b/{{workflow.name}}'", "allowed is s3://BUCKET/PREFIX"),
        ("artifacts=results", "allowed is s3://BUCKET/PREFIX"),
        ("allowed_sources=[]", "allowed_sources=[]: "),
        ("allowed_sources=['s3://a/*,s3://b/*']", "allowed is s3://BUCKET/PREFIX*, without a comma"),
        ("aws_endpoint_url=10.0.0.1:5000", "allowed is http://HOST:PORT or https://HOST"),
        ("name=Reelscan", "allowed is 1 to 52 small letters, digits and hyphens"),
        ("namespace=a_b", "allowed is 1 to 253 small letters"),
        ("model_name='a b'", "allowed is a letter or digit, then at most 127 letters"),
        ("model_profile=unknown", "model profile 'unknown' is no file and no built-in profile; built in are"),
        ("inference_nodes={tolerations: [{operator: Exists, value: a}]}", "operator Exists takes no value"),
        ("inference_nodes={tolerations: [{value: a}]}", "operator Equal needs a key"),
        ("inference_nodes={tolerations: [{key: a, toleration_seconds: 9}]}", "needs effect NoExecute"),
        ("inference_nodes={tolerations: [{key: a, effect: No}]}", "allowed is 'NoSchedule', 'PreferNoSchedule' or"),
        ("retries", "--set 'retries': expected NAME=VALUE"),
        ("=3", "--set '=3': expected NAME=VALUE"),
        ("retries=[", "--set 'retries=[': the value is no YAML"),
    ],
)
def test_what_is_wrong_is_said_in_one_line_with_what_is_allowed(change: str, said: str) -> None:
    assert said in refused(change)


def test_a_setting_has_no_settings_of_its_own() -> None:
    assert refused("retries=3", "retries.limit=4") == "--set retries.limit: retries holds no settings of its own"


def bounded() -> list[tuple[str, str, int]]:
    """Each bound of a number: its setting, whether it is the lowest or the highest, and it."""
    found = []
    sections: list[tuple[str, type[BaseModel]]] = [("", WorkflowSettings), ("serving.", Serving)]
    for prefix, model in sections:
        for name, field in model.model_fields.items():
            for rule in field.metadata:
                for kind in ("ge", "le"):
                    if isinstance(getattr(rule, kind, None), int):
                        found.append((prefix + name, kind, getattr(rule, kind)))
    return found


@pytest.mark.parametrize(("name", "kind", "bound"), bounded())
def test_a_number_may_be_its_bound_but_not_beyond(name: str, kind: str, bound: int) -> None:
    assert load_settings(None, [f"{name}={bound}"])
    beyond, end = (bound - 1, "least") if kind == "ge" else (bound + 1, "most")
    assert f"{name}={beyond}: allowed is at {end} {bound}" in refused(f"{name}={beyond}")


def test_every_number_has_a_lowest_value() -> None:
    numbers = {name for name, field in WorkflowSettings.model_fields.items() if field.annotation is int}
    assert numbers == {name for name, kind, _ in bounded() if kind == "ge" and "." not in name}


@pytest.mark.parametrize("model", [WorkflowSettings, Serving, Resources, Placement, Toleration])
def test_every_setting_says_what_it_means(model: type[BaseModel]) -> None:
    assert all(field.description for field in model.model_fields.values())


def test_every_setting_of_the_steps_can_be_set_in_one_place() -> None:
    limits = set(known_limits())
    assert limits < set(Settings.model_fields) | set(Options.model_fields)
    assert "max_duration_seconds" in limits
    # These have one meaning in the workflow, and are set there.
    assert not limits & {"results", "serving", "model_name", "job_timeout_seconds"}


def test_a_file_is_read_and_changes_go_before_it(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("retries: 2\nserving: {image: a/b:1, args: [--x]}\nlimits: {fps: 2}\n")
    settings = load_settings(path, ["retries=5", "serving.image=c/d:2", "limits.force=true"])
    assert settings.retries == 5
    assert (settings.serving.image, settings.serving.args) == ("c/d:2", ["--x"])
    assert settings.limits == {"fps": 2, "force": True}


def test_an_empty_file_is_the_defaults(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text("# nothing\n")
    assert load_settings(path) == WorkflowSettings()


@pytest.mark.parametrize(
    ("text", "said"),
    [("- a\n", "holds a list, expected settings by name"), ("a: [\n", "is no YAML"), ("\xff\n", "is no YAML")],
)
def test_a_file_that_holds_no_settings_is_told(text: str, said: str, tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UsageError, match=said):
        load_settings(path)


def test_a_file_that_is_not_there_and_a_setting_in_one_are_told_with_its_name(tmp_path: Path) -> None:
    path = tmp_path / "settings.yaml"
    with pytest.raises(UsageError, match=r"settings\.yaml: No such file"):
        load_settings(path)
    path.write_text("retires: 4\n")
    with pytest.raises(UsageError, match=r"settings\.yaml: no setting is named retires"):
        load_settings(path)


@pytest.mark.parametrize(
    ("text", "number"),
    [("500m", "0.5"), ("2", "2"), ("1.5Gi", "1610612736"), ("1Ki", "1024"), ("3M", "3000000"), ("1k", "1000")],
)
def test_amounts_are_read_as_kubernetes_does(text: str, number: str) -> None:
    assert amount(text) == amount(number)


@pytest.mark.parametrize(
    ("memory", "twice"),
    [("1Gi", "2Gi"), ("1.5Gi", "3.0Gi"), ("1234567Ki", "2469134Ki"), ("2147483648", "4294967296"), ("700Mi", "1400Mi")],
)
def test_a_retry_has_exactly_twice_the_memory(memory: str, twice: str) -> None:
    assert Resources(memory=memory).retry_memory == twice


@pytest.mark.parametrize(("written", "read"), [(2, "2"), (0.5, "0.5"), ("250m", "250m")])
def test_an_amount_may_be_written_as_a_number(written: Any, read: str) -> None:
    assert Resources.model_validate({"cpu": written}).cpu == read


def test_labels_of_nodes_may_be_written_without_quotes() -> None:
    settings = load_settings(None, ["standard_nodes={node_selector: {inference: false, shelf: 2}}"])
    assert settings.standard_nodes.node_selector == {"inference": "false", "shelf": "2"}
