"""`make images`: builds the images, and says what was built, how large it is, and what was not and why."""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from images.size import ImageSize, exceeded, measure, report
from images.tool import Tool, ToolError, find_tool

ROOT = Path(__file__).parents[1]
STEPS_DOCKERFILE = ROOT / "images" / "steps" / "Dockerfile"
_SERVING = ROOT / "images" / "serving"
_PROFILE = "reelscan.json"


def revision() -> str:
    """The commit that is checked out, with `-dirty` if files differ from it; `unknown` without Git."""
    git = shutil.which("git")
    if git is None:
        return "unknown"
    command = [git, "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def build_steps(tool: Tool, image: str, version: str) -> None:
    """Builds the image of the steps. Raises ToolError."""
    tool.build(image, STEPS_DOCKERFILE, ROOT, arguments={"VERSION": version, "REVISION": revision()})


def measure_image(tool: Tool, image: str) -> ImageSize:
    """The sizes of an image that the tool holds. Raises ToolError."""
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "image.tar"
        tool.save(image, archive)
        return measure(archive)


def stage_serving(model: Path, folder: Path) -> None:
    """Puts what images/serving/Dockerfile copies into a folder: the tools' build contexts reach no other places.

    Args:
        model: Folder of a SavedModel, or one with numbered versions; `reelscan.json` lies in or beside it.
        folder: An empty one.

    Raises:
        ToolError: `model` is no folder.
    """
    if not model.is_dir():
        raise ToolError(f"SERVING_MODEL is {str(model)!r}: name the folder of a SavedModel, or of its versions")
    for name in ("Dockerfile", "prepare.py", "serve"):
        shutil.copy(_SERVING / name, folder)
    shutil.copytree(model, folder / "model")
    beside = model.resolve().parent / _PROFILE
    if beside.is_file() and not (model / _PROFILE).exists():
        shutil.copy(beside, folder / "model")


def build_serving(tool: Tool, image: str, model: Path, arguments: dict[str, str]) -> None:
    """Builds the image of the model server; `arguments` are its build arguments. Raises ToolError."""
    with tempfile.TemporaryDirectory() as folder:
        stage_serving(model, Path(folder))
        tool.build(image, Path(folder) / "Dockerfile", Path(folder), arguments=arguments)


def _build(options: argparse.Namespace) -> int:
    steps = f"{options.repository}/steps:{options.tag}"
    serving = f"{options.repository}/serving:{options.tag}"
    tool = find_tool(options.tool, options.tool_arguments)
    build_steps(tool, steps, options.tag)
    size = measure_image(tool, steps)
    print(f"\n{steps}\n{report(size)}\n")
    over = exceeded(size)
    for words in over:
        print(f"images: {steps} is too large: {words}", file=sys.stderr)
    status = 1 if over else 0
    outcome = f"not built  {serving}: it needs a model; set SERVING_MODEL to the folder of a SavedModel"
    if options.serving_model:
        arguments = {"VERSION": options.serving_version, "STEPS": steps, "MODEL_NAME": options.model_name}
        try:
            build_serving(tool, serving, Path(options.serving_model), arguments)
            outcome = f"built      {serving}: {options.model_name} from {options.serving_model}"
        except ToolError as error:
            outcome = f"not built  {serving}: {error}"
            status = 2
    print(f"built      {steps} with {tool.kind}\n{outcome}")
    return status


def main() -> int:
    """Builds the images; status 1 if one is too large, 2 if it cannot be built."""
    parser = argparse.ArgumentParser(prog="images", description=main.__doc__)
    parser.add_argument("--tool", default="", help="CONTAINER_BUILD")
    parser.add_argument("--tool-arguments", default="", help="CONTAINER_BUILD_ARGS")
    parser.add_argument("--repository", required=True, help="IMAGE_REPOSITORY")
    parser.add_argument("--tag", required=True, help="IMAGE_TAG")
    parser.add_argument("--serving-model", default="", help="SERVING_MODEL")
    parser.add_argument("--serving-version", required=True, help="SERVING_VERSION")
    parser.add_argument("--model-name", required=True, help="SERVING_MODEL_NAME")
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # in order with what the tool prints
    try:
        return _build(parser.parse_args())
    except ToolError as error:
        print(f"images: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
