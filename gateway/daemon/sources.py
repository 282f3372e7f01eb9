"""From what a user names to a source that may be granted: canonical, in reach, not our own.

Nothing here looks at a path below a grantfs mount: the daemon would wait for itself.
"""

import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path

from gateway.audit.events import show_name
from gateway.errors import GrantfsError, RefusedError, UsageError
from vfs import names
from vfs.source import Source
from vfs.virtual import OWN_NAME

FUSE_TYPES = (b"fuse.grantfs",)


def grantfs_mounts() -> list[bytes]:
    """Mountpoints of every grantfs workspace on this machine, dead ones included."""
    found = []
    with open("/proc/self/mountinfo", "rb") as table:
        for line in table:
            fields = line.split()
            if fields[fields.index(b"-") + 1] in FUSE_TYPES:
                point = fields[4].replace(b"\\040", b" ").replace(b"\\011", b"\t")
                found.append(point.replace(b"\\012", b"\n").replace(b"\\134", b"\\"))
    return found


def check_outside(path: bytes, own: Iterable[Path]) -> None:
    """Refuse what lies in a grantfs mount or in grantfs's own folders. Raises RefusedError."""
    for mount in grantfs_mounts():
        if names.within(path, mount):
            raise RefusedError(
                f"{show_name(path)} is inside the grantfs mount {show_name(mount)}:"
                " grant the host folder behind it instead"
            )
    for folder in own:
        if names.within(path, os.fsencode(folder)):
            raise RefusedError(
                f"{show_name(path)} belongs to grantfs itself ({folder}): grant another folder"
            )


def check_path(path: bytes) -> bytes:
    """Return *path* if it is absolute and canonical. Raises UsageError."""
    parts = path.split(b"/")
    if not path.startswith(b"/") or path == b"/" or any(p in (b"", b".", b"..") for p in parts[1:]):
        raise UsageError(f"{show_name(path)} is no absolute path of a folder or file to grant")
    return path


def open_source(path: bytes, own: Sequence[Path], shown: bytes) -> Source:
    """Open a host folder or file as a source, never through a symlink; *shown* is its name in the
    mount.

    Raises GrantfsError if it is missing, of a kind that cannot be granted, or not readable.
    """
    protected = set()
    for folder in own:
        try:
            status = os.stat(folder)
        except FileNotFoundError:
            continue
        protected.add((status.st_dev, status.st_ino))
    named = show_name(path)
    try:
        kind = os.lstat(path).st_mode
        if not stat.S_ISREG(kind) and not stat.S_ISDIR(kind):
            raise GrantfsError(f"cannot grant {named}: it is neither a folder nor a regular file")
        if os.path.realpath(path) != path:
            raise GrantfsError(
                f"cannot grant {named}: it is reached through a symlink; name its target"
            )
        need = os.R_OK | os.X_OK if stat.S_ISDIR(kind) else os.R_OK
        if not os.access(path, need, effective_ids=True):
            raise GrantfsError(f"cannot grant {named}: you cannot read it yourself")
        return Source(path, protected.__contains__, shown=shown)
    except FileNotFoundError:
        raise GrantfsError(f"cannot grant {named}: there is no such file or folder") from None
    except OSError as error:
        raise GrantfsError(f"cannot grant {named}: {error.strerror}") from error


def check_mounted_name(name: bytes) -> bytes:
    """Return *name* if it can stand at the mount's root. Raises UsageError."""
    try:
        names.check(name)
    except OSError as error:
        raise UsageError(f"bad name {show_name(name)!r} for the mount: {error.strerror}") from error
    if name == OWN_NAME:
        raise UsageError(f"{show_name(name)} is grantfs's own name in the mount: use --as NAME")
    return name
