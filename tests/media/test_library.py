"""A file is made once and is never seen unfinished."""

from __future__ import annotations

from pathlib import Path
from threading import Thread

import pytest

from .library import FileStore


def test_a_file_is_made_once_for_all_who_ask_at_once(tmp_path: Path) -> None:
    made: list[Path] = []

    def make(path: Path) -> None:
        made.append(path)
        path.write_text("whole")

    def ask() -> None:
        assert FileStore(tmp_path).get("a.txt", make).read_text() == "whole"

    threads = [Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def _failing(path: Path) -> None:
    path.write_text("half")
    raise OSError("no space left")


def _working(path: Path) -> None:
    path.write_text("whole")


def test_a_file_whose_making_failed_is_absent_until_it_succeeds(tmp_path: Path) -> None:
    store = FileStore(tmp_path)
    with pytest.raises(OSError, match="no space left"):
        store.get("a.txt", _failing)
    assert not (tmp_path / "a.txt").exists()
    assert store.get("a.txt", _working).read_text() == "whole"
