"""Plans a clip and analyses its chunks with the server that reads the number in each picture back."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steps.detect import detect_chunk
from steps.options import Options
from steps.plan import ModelIdentity, Plan
from steps.planner import make_plan
from steps.profile import ModelProfile
from steps.settings import Settings
from steps.shards import ChunkStats, read_shard_lines
from steps.source import Source, open_source
from steps.store import FolderStore, Store
from tests.steps.reading_model import number_read

WHOLE = 1e6
"""`chunk_seconds` that no clip is as long as."""


@dataclass
class Analysis:
    """What came of a clip, over all chunks in order."""

    plan: Plan
    lines: list[dict[str, Any]]
    text: str
    """Of the analysed frames, as in frames.jsonl."""
    stats: list[ChunkStats]

    @property
    def numbers(self) -> list[int]:
        """Numbers of the planned frames, analysed or missing, in the order of the shards."""
        return [line["frame"] for line in self.lines]

    @property
    def analysed(self) -> list[dict[str, Any]]:
        """The lines of the frames that were analysed."""
        return [line for line in self.lines if "missing" not in line]

    @property
    def missing(self) -> list[int]:
        """Numbers of the frames that could not be decoded."""
        return [line["frame"] for line in self.lines if "missing" in line]

    def numbers_read(self) -> dict[int, int | None]:
        """For each analysed frame the number that the server read in its picture; None if it could not."""
        return {line["frame"]: number_read(line) for line in self.analysed}


@dataclass
class Analyst:
    """Analyses clips with one server and profile."""

    settings: Settings
    profile: ModelProfile
    folder: Path

    @property
    def model(self) -> ModelIdentity:
        """The model that the server has."""
        settings = self.settings
        return ModelIdentity(
            name=settings.model_name, version=settings.model_version, profile_digest=self.profile.digest()
        )

    @property
    def store(self) -> Store:
        """Where its plans and shards go unless another store is given."""
        return FolderStore(self.folder)

    def open(self, path: Path | str, bucket: str | None = None) -> Source:
        """A file, or with `bucket` an object."""
        return open_source(bucket, str(path), self.settings)

    def plan(self, source: Source, store: Store | None = None, **options: Any) -> Plan:
        """Plan a video; `options` are those of a task."""
        return make_plan(source, Options(**options), self.model, self.settings, store or self.store)

    def analyse(
        self, path: Path | str, *, bucket: str | None = None, store: Store | None = None, **options: Any
    ) -> Analysis:
        """Plan and analyse a video; `options` are those of a task."""
        source = self.open(path, bucket)
        return self.detect(self.plan(source, store, **options), source, store)

    def detect(self, plan: Plan, source: Source, store: Store | None = None) -> Analysis:
        """Analyse all chunks of a plan."""
        store = store or self.store
        lines, texts, stats = [], [], []
        for chunk in plan.chunks:
            stats.append(detect_chunk(store, plan, chunk, source, self.profile, self.settings))
            for line in read_shard_lines(store, plan, chunk):
                if "stats" in line.record:
                    continue
                lines.append(line.record)
                if "missing" not in line.record:
                    texts.append(line.text + "\n")
        return Analysis(plan, lines, "".join(texts), stats)
