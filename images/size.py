"""Sizes of an image: unpacked, compressed, and by package."""

from __future__ import annotations

import csv
import json
import re
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

UNPACKED_LIMIT_MB = 700
COMPRESSED_LIMIT_MB = 250
"""Of the steps' image: what a node downloads and stores before the first step starts there."""

_MEGABYTE = 1_000_000
_SITE_PACKAGES = re.compile(r"opt/reelscan/lib/python[\d.]+/site-packages/")
_COMPILED = re.compile(r"__pycache__/([^/]+?)\.cpython-\d+\.pyc$")
_BLOCK_BYTES = 1 << 20


@dataclass
class ImageSize:
    """Sizes in bytes.

    Attributes:
        unpacked: All files of all layers.
        compressed: The layers as gzip makes them, which is how registries keep them.
        by_package: What belongs to which Python package; the rest under a name in parentheses.
    """

    unpacked: int = 0
    compressed: int = 0
    by_package: Counter[str] = field(default_factory=Counter)


class _GzipMeter:
    """Passes a layer's bytes through, and counts what they are when compressed."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._gzip = zlib.compressobj(6, zlib.DEFLATED, 31)
        self._was_compressed: bool | None = None
        self.bytes = 0

    def read(self, count: int = _BLOCK_BYTES) -> bytes:
        """The next bytes of the layer."""
        data = self._file.read(count)
        if self._was_compressed is None:
            self._was_compressed = data[:2] == b"\x1f\x8b"
        self.bytes += len(data) if self._was_compressed else len(self._gzip.compress(data))
        return data

    def finish(self) -> int:
        """Reads what is left; the compressed size in bytes."""
        while self.read():
            pass
        return self.bytes + (0 if self._was_compressed else len(self._gzip.flush()))


def measure(archive: Path) -> ImageSize:
    """The sizes of an image that was saved as `docker save` does."""
    size = ImageSize()
    files: list[tuple[str, int, bool]] = []
    owners: dict[str, set[str]] = {}
    with tarfile.open(archive) as image:
        for number, (layer, meter) in enumerate(_layers(image)):
            for member in layer:
                if not member.isfile():
                    continue
                path = member.name.removeprefix("./").lstrip("/")
                files.append((path, member.size, number == 0))
                if path.endswith(".dist-info/RECORD"):
                    content = layer.extractfile(member)
                    _note_owner(path, content.read().decode() if content else "", owners)
            size.compressed += meter.finish()
    for path, count, is_base in files:
        size.unpacked += count
        size.by_package["(base image)" if is_base else _package(path, owners)] += count
    return size


def _layers(image: tarfile.TarFile) -> Iterator[tuple[tarfile.TarFile, _GzipMeter]]:
    """Each layer in order, once: as an archive to be read forward, with what counts its compressed size."""
    manifest = image.extractfile("manifest.json")
    for name in json.load(manifest)[0]["Layers"] if manifest else []:
        member = image.getmember(name)
        content = image.extractfile(image.getmember(member.linkname) if member.issym() else member)
        if content is None:
            raise ValueError(f"{name} is no file in the saved image")
        meter = _GzipMeter(content)
        with tarfile.open(fileobj=meter, mode="r|*") as layer:  # type: ignore[call-overload]  # only `read` is used
            yield layer, meter


def _note_owner(record_path: str, record: str, owners: dict[str, set[str]]) -> None:
    """Notes the first part of every path that a package's RECORD lists."""
    package = record_path.split("/")[-2].partition("-")[0].replace("_", "-")
    for path, *_ in csv.reader(record.splitlines()):
        top = path.partition("/")[0]
        if top != "..":
            owners.setdefault(top, set()).add(package)


def _package(path: str, owners: dict[str, set[str]]) -> str:
    """Whose file it is."""
    found = _SITE_PACKAGES.match(path)
    if found is None:
        return "(other files)"
    inside = path[found.end() :]
    compiled = _COMPILED.match(inside)
    top = f"{compiled[1]}.py" if compiled else inside.partition("/")[0]
    return " + ".join(sorted(owners.get(top, {"(other packages' files)"})))


def report(size: ImageSize, *, rows: int = 16) -> str:
    """The sizes as a table, in megabytes of a million bytes."""
    largest = size.by_package.most_common(rows)
    rest = size.unpacked - sum(count for _, count in largest)
    lines = [f"{count / _MEGABYTE:8.1f} MB  {package}" for package, count in largest]
    lines += [f"{rest / _MEGABYTE:8.1f} MB  (all others)"] if rest else []
    lines.append(f"{size.unpacked / _MEGABYTE:8.1f} MB  unpacked")
    lines.append(f"{size.compressed / _MEGABYTE:8.1f} MB  compressed")
    return "\n".join(lines)


def exceeded(size: ImageSize) -> list[str]:
    """What is over the limits, in words; empty if nothing is."""
    measured = (
        ("unpacked", size.unpacked, UNPACKED_LIMIT_MB),
        ("compressed", size.compressed, COMPRESSED_LIMIT_MB),
    )
    return [
        f"{name} it has {count / _MEGABYTE:.1f} MB, {limit} MB at most are allowed"
        for name, count, limit in measured
        if count > limit * _MEGABYTE
    ]
