"""Images as `docker save` writes them, of a few small files."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

SITE_PACKAGES = "opt/reelscan/lib/python3.11/site-packages"


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def write_archive(path: Path, layers: Sequence[Mapping[str, bytes]], *, compressed: bool = False) -> list[int]:
    """Writes the image; returns the size of each layer in it, in bytes."""
    blobs = [_tar(layer) for layer in layers]
    if compressed:
        blobs = [gzip.compress(blob) for blob in blobs]
    names = [f"blobs/{number}" for number in range(len(blobs))]
    manifest = json.dumps([{"Config": "config.json", "RepoTags": None, "Layers": names}]).encode()
    path.write_bytes(_tar({**dict(zip(names, blobs, strict=True)), "manifest.json": manifest}))
    return [len(blob) for blob in blobs]
