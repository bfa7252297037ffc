"""The lock files hold what pyproject.toml asks for, exactly and by digest."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from images.lock import BASE, BUILD, ROOT, SERVE, locked_versions

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = [pytest.param(path, id=path.name) for path in (BASE, SERVE, BUILD)]


def unsatisfied(requirements: list[str], locked: dict[str, str]) -> list[str]:
    """The requirements that no locked version fulfils."""
    return [
        text
        for text in requirements
        if not (required := Requirement(text)).specifier.contains(locked.get(canonicalize_name(required.name), "0"))
    ]


def test_the_lock_of_the_steps_fulfils_the_projects_dependencies() -> None:
    assert unsatisfied(PROJECT["project"]["dependencies"], locked_versions(BASE)) == [], "stale: run make lock"


def test_the_lock_of_the_embedded_server_fulfils_its_extra_and_repeats_nothing() -> None:
    base, serve = locked_versions(BASE), locked_versions(SERVE)
    extra = PROJECT["project"]["optional-dependencies"]["serve"]
    assert unsatisfied(extra, {**base, **serve}) == [], "stale: run make lock"
    assert base.keys() & serve.keys() == set()


def test_the_lock_of_the_build_fulfils_the_build_systems_requirements() -> None:
    assert unsatisfied(PROJECT["build-system"]["requires"], locked_versions(BUILD)) == [], "stale: run make lock"


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_one_version_and_digests(lock: Path) -> None:
    entries = re.findall(r"^\S+==\S+ \\\n(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+", lock.read_text(), re.MULTILINE)
    assert len(entries) == len(locked_versions(lock)) > 0
    head = "# Written by `make lock` from pyproject.toml.\n"
    assert head + "".join(entries) == lock.read_text()


@pytest.mark.parametrize("name", ["hera", "tensorflow", "opencv-python-headless", "moto", "pip", "rich"])
def test_the_steps_image_goes_without(name: str) -> None:
    assert name not in locked_versions(BASE)
