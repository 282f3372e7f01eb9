"""File names as the kernel sees them: bytes, one component at a time.

Every name that enters the core passes `check`; nothing here touches a disk.
"""

import errno
import os

NAME_MAX = 255
"""Longest component in bytes (ext4, and what `statfs` of a workspace reports)."""

PATH_MAX = 4095
"""Longest symlink target in bytes (Linux PATH_MAX without its NUL)."""

TEMPORARY_PREFIX = b".grantfs-tmp-"
"""How the names begin that a commit gives to its temporary siblings in a source: no mount shows
one, and no agent makes one."""


def check_new(name: bytes) -> bytes:
    """Return *name* if an agent may give it to something. Raises OSError as `check`, and EPERM
    for what only a commit makes."""
    check(name)
    if name.startswith(TEMPORARY_PREFIX):
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return name


def check(name: bytes) -> bytes:
    """Return *name* if it can name an entry.

    Raises OSError: ENAMETOOLONG above NAME_MAX bytes, EINVAL for what is no single component.
    """
    if len(name) > NAME_MAX:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
    if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return name


def join(folder: bytes, name: bytes) -> bytes:
    """Join a relative folder path (b"" for its root) and a component."""
    return folder + b"/" + name if folder else name


def below(root: bytes, path: bytes) -> bytes:
    """The path of *path* (b"" for the root itself) of a tree that stands at *root*."""
    return root + b"/" + path if path else root


def within(path: bytes, folder: bytes) -> bool:
    """True if *path* is *folder* or below it, compared by component (b"" holds everything)."""
    return not folder or path == folder or path.startswith(folder + b"/")


def leaves(link: bytes, target: bytes) -> bool:
    """True if a symlink at path *link* of a tree leads out of that tree, by its text alone."""
    if target.startswith(b"/"):
        return True
    depth = link.count(b"/")
    for part in target.split(b"/"):
        if part == b"..":
            depth -= 1
            if depth < 0:
                return True
        elif part not in (b"", b"."):
            depth += 1
    return False


def rebase(path: bytes, old: bytes, new: bytes) -> bytes:
    """Move *path*, which is within *old*, to the same place within *new*."""
    rest = path[len(old) :].lstrip(b"/") if old else path
    return join(new, rest) if rest and new else (rest or new)
