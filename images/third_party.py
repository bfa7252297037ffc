"""Writes the lists of packages in THIRD_PARTY.md anew: what the lock files put into the images."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from images.lock import BASE, ROOT, SERVE, locked_versions, uv

DOCUMENT = ROOT / "THIRD_PARTY.md"

_LONGEST_LICENCE = 60  # some packages put the whole text there
_LIBRARY = re.compile(r"(?P<name>lib[\w.+-]*?)(-[0-9a-f]{8}[\d.]*)*\.so[\w.]*")


@dataclass(frozen=True)
class Package:
    """What an installed package says of itself.

    Attributes:
        name: As in the lock file.
        version: Likewise.
        licence: An SPDX expression where the package gives one, else its own words.
        home: Address of its home page or sources.
        libraries: Shared libraries of others that its wheel brings along.
    """

    name: str
    version: str
    licence: str
    home: str
    libraries: tuple[str, ...]


def packages_in(folder: Path) -> dict[str, Package]:
    """The packages that are installed in a site-packages folder, by name as lock files have it."""
    found = (_package(distribution) for distribution in distributions(path=[str(folder)]))
    return {package.name: package for package in found}


def _package(distribution: Distribution) -> Package:
    metadata = distribution.metadata
    files = (path for path in distribution.files or () if path.parts[0].endswith(".libs"))
    libraries = {found["name"] for path in files if (found := _LIBRARY.fullmatch(path.name))}
    return Package(
        name=re.sub(r"[-_.]+", "-", metadata["Name"]).lower(),
        version=distribution.version,
        licence=_licence(metadata),
        home=_home(metadata),
        libraries=tuple(sorted(libraries)),
    )


def _licence(metadata: Any) -> str:
    words: str = metadata.get("License-Expression") or metadata.get("License") or ""
    if words and len(words) <= _LONGEST_LICENCE and words != "Dual License":
        return words
    named = [entry.rpartition(" :: ")[2] for entry in metadata.get_all("Classifier", []) if entry.startswith("License")]
    return " or ".join(named) or "see its home"


def _home(metadata: Any) -> str:
    links = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL", []))
    by_label = {label.lower(): address for label, address in links.items()}
    known = ("source", "source code", "repository", "code", "homepage", "home")
    chosen = [by_label[label] for label in known if label in by_label]
    return chosen[0] if chosen else str(metadata.get("Home-page") or "")


def row(package: Package) -> str:
    """A line of the table."""
    libraries = ", ".join(package.libraries)
    return f"| [{package.name}]({package.home}) | {package.version} | {package.licence} | {libraries} |"


def table(packages: Iterable[Package]) -> str:
    """A table of packages, in Markdown."""
    head = "| package | version | licence | libraries in its wheel |\n|---|---|---|---|"
    rows = [row(package) for package in sorted(packages, key=lambda package: package.name)]
    return "\n".join([head, *rows, ""])


def section(document: str, name: str, text: str | None = None) -> str:
    """The generated section of that name; with `text`, the document with this in its place."""
    before, begin, rest = document.partition(f"<!-- {name}: written by `make lock` -->\n")
    inside, end, after = rest.partition(f"<!-- end of {name} -->\n")
    return inside if text is None else before + begin + text + end + after


def main() -> None:
    """Installs what the lock files list into a folder, and writes down what it is."""
    document = DOCUMENT.read_text()
    for name, lock in (("steps", BASE), ("embedded", SERVE)):
        with tempfile.TemporaryDirectory() as folder:
            command = [uv(), "pip", "install", "--quiet", "--no-deps", "--require-hashes", "--python-version=3.11"]
            subprocess.run([*command, f"--target={folder}", f"--requirements={lock}"], check=True)
            packages = packages_in(Path(folder))
        missing = locked_versions(lock).keys() - packages.keys()
        if missing:
            raise SystemExit(f"third_party: installed, but not found: {', '.join(sorted(missing))}")
        document = section(document, name, table(packages.values()))
    DOCUMENT.write_text(document)


if __name__ == "__main__":
    main()
