"""`make push-images`: brings the built images to ECR, into the repositories of the stack."""

from __future__ import annotations

import base64
import shlex
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from botocore.exceptions import ClientError

from images.tool import Tool, ToolError, find_tool
from infra.command import main
from infra.session import Aws, calling, error_code
from infra.settings import InfraSettings
from infra.stack import Stack
from infra.template import CLUSTER, Template
from steps.errors import OutsideError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

IMAGES = ("steps", "serving")
PUSH_SECONDS = 3600.0


@dataclass(frozen=True)
class Login:
    """A login to the registry, good for twelve hours."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"


def has_tag(aws: Aws, repository: str, tag: str) -> bool:
    """Whether a repository has the tag, which is never moved to another image."""
    with calling(f"images of ECR repository {repository}"):
        try:
            found = aws.ecr.describe_images(repositoryName=repository, imageIds=[{"imageTag": tag}])
        except ClientError as error:
            if error_code(error) == "ImageNotFoundException":
                return False
            raise
    return bool(found["imageDetails"])


def login(aws: Aws) -> Login:
    """The login that ECR gives."""
    with calling("login to ECR"):
        data = aws.ecr.get_authorization_token()["authorizationData"][0]
    user, _, password = base64.b64decode(data["authorizationToken"]).decode().partition(":")
    return Login(user, password)


class Registry:
    """A registry, as a container tool reaches it."""

    def __init__(self, tool: Tool, host: str) -> None:
        self._tool = tool
        self._host = host

    def log_in(self, login: Login) -> None:
        """Log in. The password goes by standard input: others could read it among arguments."""
        self._run("login", f"--username={login.user}", "--password-stdin", self._host, stdin=login.password)

    def has(self, image: str) -> bool:
        """Whether the tool holds an image."""
        arguments = ["inspect", "--type=image"] if self._tool.kind == "buildah" else ["image", "inspect"]
        command = [*self._tool.command, *arguments, image]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def push(self, image: str, target: str) -> None:
        """Push an image that the tool holds under another name."""
        self._run("tag", image, target)
        self._run("push", target)

    def _run(self, *arguments: str, stdin: str | None = None) -> None:
        command = [*self._tool.command, *arguments]
        try:
            done = subprocess.run(
                command, input=stdin, capture_output=True, text=True, check=False, timeout=PUSH_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise OutsideError(f"{shlex.join(command)}: not done after {PUSH_SECONDS:g} s") from error
        if done.returncode:
            said = done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}"
            raise OutsideError(f"{shlex.join(command)}: {said[-500:]}")


def push_images(settings: InfraSettings, console: Console) -> None:
    """The target."""
    if not settings.image_tag:
        raise UsageError("IMAGE_TAG is not set; set it to the tag that `make images` built")
    try:
        tool = find_tool(settings.container_build)
    except ToolError as error:
        raise UsageError(str(error)) from error
    aws = Aws(settings.region)
    told = Stack(settings, aws, Template(CLUSTER)).outputs()
    targets = {name: told[f"{name.capitalize()}RepositoryUri"] for name in IMAGES}
    registry = Registry(tool, targets["steps"].partition("/")[0])
    logged_in = False
    for name, repository in targets.items():
        image = f"{settings.image_repository}/{name}:{settings.image_tag}"
        target = f"{repository}:{settings.image_tag}"
        if not registry.has(image):
            if name == "steps":
                raise UsageError(f"{tool.kind} has no image {image}: build it with `make images`")
            console.print(f"left out  {image}: {tool.kind} has none; build it with `make images SERVING_MODEL=FOLDER`")
            continue
        if has_tag(aws, repository.partition("/")[2], settings.image_tag):
            console.print(f"is there  {target}; a tag is never moved: set another IMAGE_TAG for another image")
            continue
        if not logged_in:
            registry.log_in(login(aws))
            logged_in = True
        with console.status(f"pushing {target}"):
            registry.push(image, target)
        console.print(f"pushed    {target}")


if __name__ == "__main__":
    sys.exit(main("push-images", push_images))
