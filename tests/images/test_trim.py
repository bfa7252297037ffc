"""What is taken out of the steps image, and what stays."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TRIM = Path(__file__).parents[2] / "images" / "steps" / "trim.py"
KEPT = [
    "numpy/_core/core.so",
    "numpy/testing/__init__.py",
    "pyarrow/lib.cpython-311.so",
    "pyarrow/libarrow.so.2600",
    "pyarrow/libarrow_python.so.2600",
    "pyarrow/libparquet.so.2600",
    "botocore/data/s3/service.json.gz",
    "botocore/data/sqs/service.json.gz",
    "botocore/data/sts/service.json.gz",
    "botocore/data/sso/service.json.gz",
    "botocore/data/endpoints.json",
]
REMOVED = [
    "numpy/_core/tests/test_core.py",
    "numpy/_core/include/numpy/arrayobject.h",
    "numpy/random/lib/libnpyrandom.a",
    "pyarrow/tests/test_array.py",
    "pyarrow/include/arrow/api.h",
    "pyarrow/array.pxi",
    "pyarrow/libarrow_flight.so.2600",
    "pyarrow/_flight.cpython-311.so",
    "pyarrow/libarrow_s3.so.2600",
    "pyarrow/libarrow_python.so",
    "pyarrow/libarrow_python.so.2600.1.0",
    "botocore/data/ec2/service.json.gz",
]


@pytest.fixture
def site_packages(tmp_path: Path) -> Path:
    for name in (*KEPT, *REMOVED):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(bytes(100_000))
    return tmp_path


def test_what_no_step_uses_goes_and_the_rest_stays(site_packages: Path) -> None:
    said = subprocess.run(
        [sys.executable, TRIM, site_packages], capture_output=True, text=True, check=True, timeout=60
    ).stdout
    left = {str(path.relative_to(site_packages)) for path in site_packages.rglob("*") if path.is_file()}
    assert left == set(KEPT)
    assert said.splitlines() == [
        "trimmed    0.8 MB of pyarrow",
        "trimmed    0.3 MB of numpy",
        "trimmed    0.1 MB of botocore",
    ]
