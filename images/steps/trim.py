"""Takes out of a site-packages folder what no step uses, when the image is built. Prints what that saves.

Run as a program with the folder as its argument. Needs nothing but Python. tests/images runs what is left.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

# Tests of the libraries themselves; what only a compiler reads.
_FOLDERS = ("numpy/**/tests", "numpy/**/include", "pyarrow/tests", "pyarrow/include", "pyarrow/src", "grpc/**/tests")
_SOURCES = ("**/*.pyx", "**/*.pxd", "**/*.pxi", "**/*.pyi", "**/*.h", "**/*.hpp", "**/*.a")
# Of Arrow, the Parquet writer alone is used. pyarrow.fs lets its S3 be absent (S3 is spoken through obstore), and
# nothing imports Flight, ORC, Gandiva, CUDA or the library's C++ tests.
_ARROW = (
    "pyarrow/libarrow_s3.so.*", "pyarrow/_s3fs.*",
    "pyarrow/libarrow_flight.so.*", "pyarrow/libarrow_python_flight.so*", "pyarrow/_flight.*",
    "pyarrow/_orc.*", "pyarrow/_dataset_orc.*", "pyarrow/*gandiva*", "pyarrow/*cuda*", "pyarrow/*_cpp_tests.*",
    # The loader asks for the name with the major version; a wheel holds no links, so each name is a whole copy.
    "pyarrow/libarrow_python*.so", "pyarrow/libarrow_python*.so.*.*.*",
)  # fmt: skip
# The services that are called, and those that credentials come from (role, web identity, SSO, `aws login`). Pod
# Identity and instance profiles are plain HTTP.
_SERVICES = ("s3", "sqs", "sts", "sso", "sso-oidc", "signin")


def unused(site_packages: Path) -> list[Path]:
    """Files and folders to take away, none inside another."""
    found = [path for pattern in (*_FOLDERS, *_SOURCES, *_ARROW) for path in site_packages.glob(pattern)]
    found += [
        path for path in (site_packages / "botocore" / "data").iterdir() if path.is_dir() and path.name not in _SERVICES
    ]
    chosen = set(found)
    return sorted(path for path in chosen if chosen.isdisjoint(path.parents))


def size_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(file.lstat().st_size for file in (path.rglob("*") if path.is_dir() else [path]) if not file.is_dir())


def main(site_packages: Path) -> None:
    """Removes them, and prints the megabytes by package."""
    saved: dict[str, int] = {}
    for path in unused(site_packages):
        package = path.relative_to(site_packages).parts[0]
        saved[package] = saved.get(package, 0) + size_bytes(path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
    for package, count in sorted(saved.items(), key=lambda entry: -entry[1]):
        print(f"trimmed {count / 1e6:6.1f} MB of {package}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
