"""`make submit`: submits a video with Argo's program, follows the run, and says what came of it."""

from __future__ import annotations

import argparse
import base64
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from steps.errors import ReelscanError, StorageError, TimeLimitError, UsageError
from steps.options import Options, parse_texts
from steps.settings import Settings, variable_of
from workflows.definition import MAIN, SINGLE, parameters
from workflows.settings import nearest

if TYPE_CHECKING:
    from steps.completed import Completed

POLL_SECONDS = 2.0
FOLLOW_SECONDS = 86400.0
"""How long a run is followed; it goes on when this is over."""
CALL_SECONDS = 60.0
"""Of one call of Argo's program."""
_CALLS_THAT_MAY_FAIL = 5
_STORAGE_SECONDS = 10.0


@dataclass(frozen=True)
class Submission:
    """What is to be submitted.

    Attributes:
        bucket: of the video.
        key: of the video.
        options: by name, as text.
    """

    bucket: str
    key: str
    options: dict[str, str]

    def arguments(self) -> list[str]:
        """For `argo submit`."""
        values = {"bucket": self.bucket, "object": self.key, **self.options}
        priority = values.pop("priority", None)
        if any("{{" in value for value in values.values()):
            # Argo evaluates what stands in double braces, even in values. Of a message it sees base64 alone.
            values = {"body": self._body(), "title": f"{self.bucket}/{self.key}".replace("{", "(").replace("}", ")")}
        given = [text for name, value in values.items() for text in ("-p", f"{name}={value}")]
        return [*given, *(["--priority", priority] if priority else [])]

    def _body(self) -> str:
        named = {name: value for name, value in self.options.items() if name not in Options.model_fields}
        options = {name: value for name, value in self.options.items() if name in Options.model_fields}
        named.pop("title", None)
        message = {"bucket": self.bucket, "object": self.key, **named, **parse_texts(options, str)}
        return base64.b64encode(json.dumps(message).encode()).decode()


def read_submission(video: str, options: str) -> Submission:
    """Understand `s3://BUCKET/KEY` and `NAME=VALUE ...`, quoted as in a shell.

    Raises:
        UsageError: the address is none, an option is not known or not allowed.
    """
    bucket, _, key = video.removeprefix("s3://").partition("/")
    if not video.startswith("s3://") or not bucket or not key:
        raise UsageError(f"VIDEO={video!r}: expected s3://BUCKET/KEY")
    given_otherwise = ("body", "message_id", "bucket", "object")
    known = [str(parameter.name) for parameter in parameters() if parameter.name not in given_otherwise] + ["priority"]
    chosen: dict[str, str] = {}
    try:
        words = shlex.split(options)
    except ValueError as error:
        raise UsageError(f"OPTIONS={options!r}: {error}") from error
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"OPTIONS: {word!r} is not NAME=VALUE")
        if name not in known:
            raise UsageError(f"OPTIONS: no option is named {name!r}; the most similar is {nearest(name, known)}")
        chosen[name] = value
    Options.from_text({name: value for name, value in chosen.items() if name in Options.model_fields}, {})
    return Submission(bucket, key, chosen)


class Argo:
    """Argo's program.

    Args:
        namespace: to work in; empty: the kubeconfig's.

    Raises:
        UsageError: there is no such program.
    """

    def __init__(self, namespace: str) -> None:
        program = shutil.which("argo")
        if program is None:
            raise UsageError(
                "the program argo is not installed: take it from https://github.com/argoproj/argo-workflows/releases, "
                "or submit with kubectl as docs/workflow.md shows"
            )
        self._command = [program, *(["-n", namespace] if namespace else [])]

    def __call__(self, *arguments: str) -> str:
        """Its output. Raises StorageError with what it said if it failed."""
        try:
            done = subprocess.run(
                [*self._command, *arguments], capture_output=True, text=True, timeout=CALL_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise StorageError(f"argo {arguments[0]} gave no answer for {CALL_SECONDS:g} s") from error
        if done.returncode:
            # Of several lines of a log the last says what it is about.
            lines = (done.stderr or done.stdout).strip().splitlines() or [f"status {done.returncode}"]
            raise StorageError(f"argo {arguments[0]}: {lines[-1]}")
        return done.stdout


def follow(argo: Argo, name: str, seconds: float = FOLLOW_SECONDS) -> dict[str, Any]:
    """Print how a run gets on, until it has ended; gives the Workflow.

    Raises:
        TimeLimitError: it has not ended in time.
        StorageError: Argo does not answer.
    """
    began, shown, failed = time.monotonic(), "", 0
    while True:
        try:
            workflow: dict[str, Any] = json.loads(argo("get", name, "-o", "json"))
            failed = 0
        except (StorageError, ValueError) as error:
            failed += 1
            if failed == _CALLS_THAT_MAY_FAIL:
                raise StorageError(f"{error}; the run {name} goes on") from error
        else:
            if (state := describe(workflow)) != shown:
                shown = state
                print(f"{time.monotonic() - began:6.0f} s  {state}", flush=True)
            if workflow["metadata"].get("labels", {}).get("workflows.argoproj.io/completed") == "true":
                return workflow
        if time.monotonic() - began > seconds:
            raise TimeLimitError(f"the run {name} has not ended after {seconds:g} s; argo get {name} shows it")
        time.sleep(POLL_SECONDS)


def describe(workflow: dict[str, Any]) -> str:
    """How far a run is, in a line."""
    status = workflow.get("status", {})
    nodes = status.get("nodes", {})
    # The name for people is that of all attempts together.
    names = {
        child: node["displayName"]
        for node in nodes.values()
        if node["type"] == "Retry"
        for child in node.get("children", [])
    }
    pods = [node for node in nodes.values() if node["type"] == "Pod"]
    words = [status.get("phase") or "waiting for Argo"]
    at_work = sorted(
        f"{names.get(pod['id'], pod['displayName'])} {pod.get('progress', '')}"
        for pod in pods
        if pod["phase"] == "Running"
    )
    words += at_work[:5] + ([f"{len(at_work) - 5} more"] if len(at_work) > 5 else [])
    waiting = [pod for pod in pods if pod["phase"] == "Pending"]
    if waiting:
        reasons = sorted({pod["message"] for pod in waiting if pod.get("message")})
        words.append(f"{len(waiting)} waiting" + (f" ({reasons[0][:160]})" if reasons else ""))
    return ", ".join(word.strip() for word in words)


def completed_message(workflow: dict[str, Any]) -> Completed | str:
    """The completed message from the ledger of the run's results, or why it cannot be told."""
    from steps.ledger import Ledger
    from steps.store import open_store

    templates = workflow["status"].get("storedWorkflowTemplateSpec", {}).get("templates", [])
    variables = [variable for template in templates for variable in template.get("container", {}).get("env", [])]
    results = next((v["value"] for v in variables if v["name"] == variable_of("results")), None)
    if results is None:
        return "the completed message is not known: the template names no place for results"
    task_id = workflow["metadata"]["uid"]
    try:
        settings = Settings(storage_timeout_seconds=_STORAGE_SECONDS)
        entries = Ledger(open_store(f"{results}/ledger", settings)).find(task_id)
    except ReelscanError as error:
        return f"the completed message cannot be read from here; it is {results}/ledger/{task_id}.*: {error}"
    return entries[-1].completed if entries else f"no completed message is in {results}/ledger for task {task_id}"


def submit(options: argparse.Namespace) -> None:
    """Submit, follow, tell. Raises ReelscanError, of the kind that the outcome is."""
    from rich.console import Console

    from local.outcomes import raise_for_outcomes
    from local.waiting import print_outcome

    submission = read_submission(options.video, options.options)
    argo = Argo(options.namespace)
    chosen = ["--entrypoint", options.entrypoint] if options.entrypoint else []
    name = argo(
        "submit", "--from", f"workflowtemplate/{options.template}", *chosen, *submission.arguments(), "-o", "name"
    ).strip()
    print(f"submitted {name}; Ctrl-C stops following it, not the run", flush=True)
    workflow = follow(argo, name)
    tree = argo("get", name, *([] if sys.stdout.isatty() else ["--no-color"]))
    print("\n".join(line.rstrip() for line in tree.splitlines()) + "\n")
    completed = completed_message(workflow)
    if isinstance(completed, str):
        print(completed)
        if workflow["status"]["phase"] != "Succeeded":
            raise ReelscanError(f"the run {name} ended as {workflow['status']['phase']}")
        return
    print_outcome(Console(), completed)
    raise_for_outcomes([completed])


def main() -> int:
    """Submits a video, follows the run and prints what came of it. Exit statuses are those of `reelscan`."""
    parser = argparse.ArgumentParser(prog="make submit", description=main.__doc__)
    parser.add_argument("--video", required=True, help="VIDEO")
    parser.add_argument("--options", default="", help="OPTIONS")
    parser.add_argument("--entrypoint", default="", choices=("", MAIN, SINGLE), help="ENTRYPOINT")
    parser.add_argument("--namespace", default="", help="NAMESPACE")
    parser.add_argument("--template", default="reelscan", help="TEMPLATE")
    try:
        submit(parser.parse_args())
    except KeyboardInterrupt:
        print("submit: stopped following; the run goes on", file=sys.stderr)
        return 130
    except ReelscanError as error:
        print(f"submit: {error}", file=sys.stderr)
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
