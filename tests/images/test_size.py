"""The sizes of an image: what is counted, as whose, and what is too much."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from images.size import ImageSize, exceeded, measure, report
from tests.images.archives import SITE_PACKAGES, write_archive

LAYERS = [
    {"usr/lib/libc.so": bytes(1000), "./etc/os-release": b"Debian"},
    {
        f"{SITE_PACKAGES}/numpy/core.so": bytes(300),
        f"{SITE_PACKAGES}/numpy.libs/libblas.so": bytes(200),
        f"{SITE_PACKAGES}/numpy-2.4.dist-info/RECORD": b"numpy/core.so,,\nnumpy.libs/libblas.so,,\n../bin/f2py,,\n",
        f"{SITE_PACKAGES}/six.py": bytes(30),
        f"{SITE_PACKAGES}/__pycache__/six.cpython-311.pyc": bytes(40),
        f"{SITE_PACKAGES}/six-1.0.dist-info/RECORD": b"six.py,,\n",
        f"{SITE_PACKAGES}/stray.txt": bytes(5),
        "opt/reelscan/bin/f2py": bytes(7),
    },
]


def test_every_file_is_counted_once_and_as_its_packages(tmp_path: Path) -> None:
    write_archive(tmp_path / "image.tar", LAYERS)
    size = measure(tmp_path / "image.tar")
    assert size.by_package == Counter(
        {
            "(base image)": 1006,
            "numpy": 500,
            "six": 70,
            "(other packages' files)": 5 + sum(len(LAYERS[1][name]) for name in LAYERS[1] if name.endswith("RECORD")),
            "(other files)": 7,
        }
    )
    assert size.unpacked == sum(len(content) for layer in LAYERS for content in layer.values())


def test_layers_that_are_not_compressed_are_measured_as_gzip_makes_them(tmp_path: Path) -> None:
    noise = {"a": os.urandom(50_000), "zeros": bytes(500_000)}
    write_archive(tmp_path / "image.tar", [noise])
    write_archive(tmp_path / "gzip.tar", [noise], compressed=True)
    size = measure(tmp_path / "image.tar")
    assert size.unpacked == 550_000
    assert size.compressed == pytest.approx(measure(tmp_path / "gzip.tar").compressed, rel=0.02)
    assert 50_000 < size.compressed < 55_000


def test_layers_that_are_compressed_already_count_as_they_are(tmp_path: Path) -> None:
    sizes = write_archive(tmp_path / "image.tar", LAYERS, compressed=True)
    size = measure(tmp_path / "image.tar")
    assert size.compressed == sum(sizes)
    assert size.unpacked == sum(len(content) for layer in LAYERS for content in layer.values())


def test_the_table_lists_the_largest_and_adds_up_the_rest() -> None:
    size = ImageSize(6_000_000, 2_000_000, Counter(av=3_000_000, numpy=2_000_000, six=600_000, click=400_000))
    assert report(size, rows=2).splitlines() == [
        "     3.0 MB  av",
        "     2.0 MB  numpy",
        "     1.0 MB  (all others)",
        "     6.0 MB  unpacked",
        "     2.0 MB  compressed",
    ]


@pytest.mark.parametrize(
    ("unpacked", "compressed", "named"),
    [
        (700_000_000, 250_000_000, []),
        (700_000_001, 250_000_000, ["unpacked"]),
        (1, 250_000_001, ["compressed"]),
        (701_000_000, 251_000_000, ["unpacked", "compressed"]),
    ],
)
def test_an_image_over_a_limit_is_named_with_the_limit(unpacked: int, compressed: int, named: list[str]) -> None:
    said = exceeded(ImageSize(unpacked, compressed))
    assert [words.split()[0] for words in said] == named
    assert all("at most" in words for words in said)
