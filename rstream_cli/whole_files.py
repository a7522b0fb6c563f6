"""Writes files whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile


def replace_file(path: str, data: bytes, *, mode: int = 0o600) -> None:
    """Writes a file in place of the one that is there, and syncs it. Raises ``OSError``; the old one then stays.

    ``path`` is no link, and names a regular file, or none yet.
    """
    descriptor, new = tempfile.mkstemp(prefix=".rstream-", dir=os.path.dirname(path))  # for its owner alone
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        os.replace(new, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new)
        raise
