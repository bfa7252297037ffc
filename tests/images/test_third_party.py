"""THIRD_PARTY.md lists what the lock files put into the images, and what their wheels bring along."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

import pytest

from images.lock import BASE, SERVE, locked_versions
from images.third_party import DOCUMENT, Package, packages_in, row, section, table

SECTIONS = [pytest.param("steps", BASE, id="steps"), pytest.param("embedded", SERVE, id="embedded")]


def rows(name: str) -> list[str]:
    """The lines of a table of packages."""
    return section(DOCUMENT.read_text(), name).splitlines()[2:]


@pytest.fixture(scope="module")
def installed() -> dict[str, Package]:
    return packages_in(Path(sysconfig.get_path("purelib")))


@pytest.mark.parametrize(("name", "lock"), SECTIONS)
def test_every_locked_package_is_listed_with_its_version(name: str, lock: Path) -> None:
    listed = [re.match(r"\| \[([^]]+)\]\(https://[^)]+\) \| (\S+) \| [^|]+ \|", line) for line in rows(name)]
    assert [found and found.groups() for found in listed] == sorted(locked_versions(lock).items()), "run make lock"


@pytest.mark.parametrize(("name", "lock"), SECTIONS)
def test_each_line_is_what_the_package_says_of_itself(name: str, lock: Path, installed: dict[str, Package]) -> None:
    known = {
        n: installed[n]
        for n, version in locked_versions(lock).items()
        if n in installed and installed[n].version == version
    }
    of_known = [line for line in rows(name) if re.split(r"[][]", line)[1] in known]
    assert table(known.values()).splitlines()[2:] == of_known, "stale: run make lock"


@pytest.mark.parametrize("package", ["av", "numpy"])
def test_the_notes_name_every_library_in_the_wheels_of_the_steps(package: str) -> None:
    (line,) = (line for line in rows("steps") if line.startswith(f"| [{package}]"))
    libraries = line.split(" | ")[3].removesuffix(" |").split(", ")
    notes = DOCUMENT.read_text().replace(section(DOCUMENT.read_text(), "steps"), "")
    assert [name for name in libraries if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", notes)] == []
    assert libraries != [""]


def test_the_gpl_encoders_are_named_as_such() -> None:
    notes = DOCUMENT.read_text()
    assert re.search(r"^\| libx264 \|.*\| GPL-2\.0-or-later \|$", notes, re.MULTILINE)
    assert re.search(r"^\| libx265 \|.*\| GPL-2\.0-or-later \|$", notes, re.MULTILINE)


def test_a_package_is_told_by_its_metadata(tmp_path: Path) -> None:
    folder = tmp_path / "some_package-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: Some.Package\nVersion: 1.0\nLicense: Dual License\n"
        "Classifier: License :: OSI Approved :: MIT License\nClassifier: License :: OSI Approved :: BSD License\n"
        "Home-page: https://example.org\nProject-URL: Source, https://example.org/source\n"
    )
    (folder / "RECORD").write_text(
        "some_package.libs/libx265-f5385bb8.so.216,,\nsome_package.libs/libssl-8248cfc9.so.1.1.1k,,\n"
        "some_package.libs/libopenblasp-r0-59ffcd50.3.15.so,,\nsome_package/core.so,,\n"
    )
    expected = Package(
        "some-package", "1.0", "MIT License or BSD License", "https://example.org/source",
        ("libopenblasp-r0", "libssl", "libx265"),
    )  # fmt: skip
    assert packages_in(tmp_path) == {"some-package": expected}
    assert row(expected) == (
        "| [some-package](https://example.org/source) | 1.0 | MIT License or BSD License | "
        "libopenblasp-r0, libssl, libx265 |"
    )


def test_a_section_is_replaced_and_nothing_else() -> None:
    document = "a\n<!-- steps: written by `make lock` -->\nold\n<!-- end of steps -->\nb\nold\n"
    assert section(document, "steps") == "old\n"
    assert section(document, "steps", "new\n") == document.replace("old", "new", 1)
