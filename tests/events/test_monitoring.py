"""Alerts ask for what is measured, in expressions that Prometheus can read."""

from __future__ import annotations

import re
from typing import Any

import promql_parser
import pytest
import yaml

from events.deployment import OVERLAYS
from workflows import workflow_template
from workflows.reconciler import reconciler

MONITORING = OVERLAYS.parent / "monitoring"
DOCUMENT: dict[str, Any] = yaml.safe_load((MONITORING / "rules.yaml").read_text())
RULES = [rule for group in DOCUMENT["spec"]["groups"] for rule in group["rules"]]
# Of Argo Events 1.9.9 (pkg/metrics/metrics.go), with the prefix argo_events.
OF_ARGO_EVENTS = {
    "argo_events_event_service_running_total",
    "argo_events_events_sent_failed_total",
    "argo_events_action_retries_failed_total",
}
OF_THE_CLOUDWATCH_EXPORTER = {"aws_sqs_approximate_age_of_oldest_message_maximum"}


def of_the_controller() -> set[str]:
    """What the workflow and the reconciler define, as the controller names it."""
    spec = reconciler().to_dict()["spec"]["workflowSpec"]
    defined = [*workflow_template().to_dict()["spec"]["metrics"]["prometheus"]]
    defined += [metric for template in spec["templates"] for metric in template["metrics"]["prometheus"]]
    return {f"argo_workflows_{metric['name']}" for metric in defined}


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_what_is_measured(rule: dict[str, Any]) -> None:
    promql_parser.parse(rule["expr"])
    asked = set(re.findall(r"\b(?:argo|aws)_[a-z_]+", rule["expr"]))
    assert asked
    assert asked <= OF_ARGO_EVENTS | OF_THE_CLOUDWATCH_EXPORTER | of_the_controller()


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_says_what_is_wrong_and_what_to_do(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in ("info", "warning", "critical")
    assert set(rule["annotations"]) == {"summary", "runbook"}


def test_each_metric_of_ours_has_an_alert_or_is_a_histogram() -> None:
    asked = {name for rule in RULES for name in re.findall(r"\bargo_workflows_[a-z_]+", rule["expr"])}
    assert of_the_controller() - asked == {"argo_workflows_reelscan_run_seconds"}


def test_the_operations_page_explains_each_alert() -> None:
    page = (OVERLAYS.parents[1] / "docs/operations.md").read_text()
    assert [rule["alert"] for rule in RULES if f"`{rule['alert']}`" not in page] == []
