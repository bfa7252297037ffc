"""What is measured: clips and models, and how much of each."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.clips import hd_clip, sd_clip
from steps.options import Options
from steps.plan import ModelIdentity
from steps.planner import make_plan
from steps.profile import load_profile
from steps.settings import Settings
from steps.source import open_source
from steps.store import FolderStore

ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "samples"
PROFILES = ROOT / "local" / "serving" / "profiles"
HD, SD = "1080p", "432p"
WHOLE_SECONDS = 1e6
"""Chunks of this length: one."""


@dataclass(frozen=True)
class Effort:
    """How much is measured."""

    name: str
    repetitions: int
    run_seconds: float
    """What one measurement of a case should take about."""
    checked_frames: int
    memory_frames: int
    starts: int


FULL = Effort("full", repetitions=4, run_seconds=5.0, checked_frames=60, memory_frames=600, starts=5)
QUICK = Effort("quick", repetitions=2, run_seconds=0.8, checked_frames=20, memory_frames=240, starts=3)


@dataclass(frozen=True)
class Model:
    """A model, and the size of its input."""

    name: str
    path: str
    """What `reelscan serve --model` is given."""
    profile: Path
    input_pixels: int
    """Width and height."""

    def write_profile(self, folder: Path) -> Path:
        """The profile for pictures of `input_pixels`."""
        profile = json.loads(self.profile.read_text())
        profile["input"].update(width=self.input_pixels, height=self.input_pixels)
        path = folder / f"{self.name}-{self.input_pixels}.json"
        path.write_text(json.dumps(profile))
        return path


SSD = Model("ssd", str(SAMPLES / "coco_ssd_mobilenet_v1_1.0_quant.tflite"), SAMPLES / "reelscan.json", 300)
NULL = Model("null", "null", PROFILES / "null.json", 640)


def coded(input_pixels: int) -> Model:
    """The model that gives back the CRC-32 of each picture."""
    return Model("coded", "coded", PROFILES / "coded.json", input_pixels)


@dataclass(frozen=True)
class Case:
    """A clip and a model."""

    clip: str
    model: Model
    expected_fps: float
    """Of detecting, on a core of 2023: says how many frames make a measurement of a given length."""

    def make_clip(self, folder: Path, frames: int) -> Path:
        """The clip, with so many frames or more."""
        return hd_clip(folder, frames) if self.clip == HD else sd_clip(folder, frames)


CASES = (Case(HD, SSD, 65), Case(HD, NULL, 100), Case(SD, SSD, 65), Case(SD, NULL, 370))


@dataclass(frozen=True)
class Setup:
    """What a bench measures, and where it keeps its files."""

    folder: Path
    """An absolute path."""
    effort: Effort
    tell: Callable[[str], None]
    """Is told what is measured next."""
    cases: Sequence[Case] = CASES


def plan_run(folder: Path, clip: Path, profile: Path, frames: int | None = None, fps: float = 0.0) -> Path:
    """A folder with the plan of a clip, or of the first so many frames, in one chunk. `fps` 0 is every frame."""
    shutil.rmtree(folder, ignore_errors=True)
    settings = Settings(model_name="bench", model_profile=str(profile))
    model = ModelIdentity(
        name=settings.model_name, version=settings.model_version, profile_digest=load_profile(str(profile)).digest()
    )
    options = Options(fps=fps, max_frames=frames, chunk_seconds=WHOLE_SECONDS)
    make_plan(open_source(None, str(clip), settings), options, model, settings, FolderStore(folder))
    return folder
