"""Copying results to a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from local.download import copy_results, distinct, download_results
from steps.errors import NotFoundError, UsageError
from steps.settings import Settings
from steps.store import FolderStore
from tests.local.test_sender import completed


@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        ([], []),
        (["a", "b"], ["a", "b"]),
        (["a", "a", "a"], ["a", "a-2", "a-3"]),
        (["a-2", "a", "a"], ["a-2", "a", "a-3"]),
        (["a", "a", "a-2", "a-2", "a"], ["a", "a-2", "a-2-2", "a-2-3", "a-3"]),
    ],
)
def test_each_video_has_a_folder_of_its_own(names: list[str], chosen: list[str]) -> None:
    assert distinct(names) == chosen


@pytest.fixture
def source(tmp_path: Path) -> FolderStore:
    store = FolderStore(tmp_path / "source")
    store.put("frames.jsonl.gz", b"frames")
    store.put("summary.json", b"summary")
    return store


def test_what_an_earlier_copy_lacked_frames_of_is_not_left(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    for key in ("missing.jsonl.gz", "summary.json", "notes.txt"):
        target.put(key, b"old")
    copy_results(source, target, ["frames.jsonl.gz"])
    assert set(target.list("")) == {"frames.jsonl.gz", "summary.json", "notes.txt"}
    assert target.get("summary.json").data == b"summary"


def test_a_copy_that_is_cut_short_does_not_look_whole(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    target.put("summary.json", b"old")
    with pytest.raises(NotFoundError, match=r"coco\.json"):
        copy_results(source, target, ["frames.jsonl.gz", "coco.json"])
    assert set(target.list("")) == {"frames.jsonl.gz"}


def test_results_that_are_in_the_folder_already_stay(source: FolderStore) -> None:
    copy_results(source, source, ["frames.jsonl.gz"])
    assert source.get("summary.json").data == b"summary"


def test_a_summary_that_is_not_reelscans_is_not_overwritten(source: FolderStore, tmp_path: Path) -> None:
    target = FolderStore(tmp_path / "target")
    target.put("summary.json", b"of the user's own")
    with pytest.raises(UsageError, match="holds results of another video"):
        download_results(completed(results=source.url), target, Settings())
    assert target.get("summary.json").data == b"of the user's own"
