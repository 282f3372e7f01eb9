"""What redaction would mask in host files: for `grantfs scan`, which never shows a value."""

import os
import stat
from collections.abc import Iterator
from typing import Any

from gateway.audit.events import show_name
from vfs.redaction import Redactor


def _files(path: bytes) -> Iterator[bytes]:
    if stat.S_ISREG(os.lstat(path).st_mode):
        yield path
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            file = os.path.join(folder, name)
            if stat.S_ISREG(os.lstat(file).st_mode):
                yield file


def scan_path(
    redactor: Redactor, path: bytes, profile: str = "secrets", *, shown_as: bytes | None = None
) -> list[dict[str, Any]]:
    """Findings in a file, or in every regular file below a folder, links not followed.

    Offsets are bytes; lines count from 1. Files are named by their own paths, or with *shown_as*
    in place of *path*. Raises OSError, ScanError.
    """
    found = []
    for file in _files(path):
        fd = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as opened:
            data = opened.read()
        line, counted = 1, 0
        for finding in redactor.findings(data, profile):
            line += data.count(b"\n", counted, finding.start)
            counted = finding.start
            found.append(
                {
                    "path": show_name(file if shown_as is None else shown_as + file[len(path) :]),
                    "rule": finding.rule,
                    "kind": finding.kind,
                    "start": finding.start,
                    "end": finding.end,
                    "line": line,
                }
            )
    return found
