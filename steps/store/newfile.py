"""A file that appears whole under its name, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
import uuid
from pathlib import Path
from typing import IO

_DESCRIPTORS = Path("/proc/self/fd")
_NO_SUCH_FILES = (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL)
"""What Linux says of O_TMPFILE where the file system, or the kernel, does not have it."""
_PREFIX_CHARACTERS = 64


class NewFile:
    """A file that has no name until `appear`, so that a process that is killed leaves nothing in the folder.

    Where there are no files without a name (other systems than Linux, some network file systems) it has a hidden one.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hidden: Path | None = None
        descriptor = _open_nameless(path.parent)
        if descriptor is None:
            descriptor, name = tempfile.mkstemp(prefix=f".{path.name[:_PREFIX_CHARACTERS]}.", dir=path.parent)
            self._hidden = Path(name)
        self.file: IO[bytes] = os.fdopen(descriptor, "wb")

    def appear(self) -> None:
        """Give what was written its name, in place of what had it."""
        self.file.flush()
        os.fchmod(self.file.fileno(), 0o644)
        if self._hidden is None:
            try:
                self._link(self._path)
                return
            except FileExistsError:
                # Only a rename replaces a file. The hidden name is there from here to the next line.
                self._hidden = self._path.with_name(f".{self._path.name[:_PREFIX_CHARACTERS]}.{uuid.uuid4().hex[:8]}")
                self._link(self._hidden)
        self._hidden.replace(self._path)
        self._hidden = None

    def close(self) -> None:
        """Close it; what did not appear is gone."""
        try:
            # Bytes that could not be written are told by `write` and `appear`.
            with contextlib.suppress(OSError):
                self.file.close()
        finally:
            if self._hidden is not None:
                self._hidden.unlink(missing_ok=True)

    def _link(self, path: Path) -> None:
        descriptor = self.file.fileno()
        # With a folder's descriptor, which an absolute path ignores, Python asks linkat to follow the link in /proc.
        os.link(_DESCRIPTORS / str(descriptor), path, src_dir_fd=descriptor, follow_symlinks=True)


def _open_nameless(folder: Path) -> int | None:
    if not hasattr(os, "O_TMPFILE") or not _DESCRIPTORS.is_dir():
        return None
    try:
        return os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_SUCH_FILES:
            raise
        return None
