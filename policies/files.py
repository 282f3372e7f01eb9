"""Reading policy files from disk without being led astray.

Only regular files that are named directly: no symlink, pipe or device is opened, no more than a
bound is read, and where only administrators may have a say, a folder or file that anybody else can
write is refused. Everything that goes wrong is a PolicyError; what is not there is simply not
there.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from policies.model import PolicyDocument
from policies.parse import MAX_FILE_BYTES, PolicyError
from policies.paths import Glob, canonical
from policies.rulebook import Link

ROOT: Final = 0
_OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS: Final = 64


@dataclass(frozen=True, slots=True)
class ManagedFolder:
    """A folder of policy that only the users in `owners` (uids) may be able to change.

    With `ancestors`, that holds for every folder above it too, and it may not be reached through a
    symlink: right for a system's own, too much for one below a user's home.
    """

    path: Path
    owners: frozenset[int] = frozenset({ROOT})
    ancestors: bool = True


def policy_files(
    folder: Path, managed: ManagedFolder | None
) -> Iterator[tuple[Path, bytes | PolicyError]]:
    """The `*.json` files of a folder in name order, each with its bytes or why it cannot be used.

    Names that begin with a dot are passed over, as a shell does. A folder that is not there has no
    files. Raises PolicyError when the folder itself cannot be used.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | (os.O_NOFOLLOW if managed else 0)
    try:
        descriptor = os.open(folder, flags)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        if managed:
            _check_owner(folder, os.fstat(descriptor), managed)
            if managed.ancestors:
                _check_ancestors(managed)
        names = sorted(name for name in os.listdir(descriptor) if _is_policy(name))
        for name in names:
            path = folder / name
            try:
                data = _read(path, name, descriptor, managed)
            except PolicyError as error:
                yield path, error
            else:
                if data is not None:
                    yield path, data
    except OSError as error:
        raise _unusable(folder, error) from error
    finally:
        os.close(descriptor)


def policy_file(path: Path) -> bytes | None:
    """The bytes of one policy file, or None when it is not there. Raises PolicyError."""
    return _read(path, str(path), None, None)


def fingerprint(path: Path) -> tuple[object, ...]:
    """What changes when a policy file, or a folder or one of the policy files in it, does."""
    parts: list[object] = [_stamp(path)]
    try:
        names = sorted(name for name in os.listdir(path) if _is_policy(name))
    except OSError:
        return tuple(parts)
    parts.extend((name, _stamp(path / name)) for name in names)
    return tuple(parts)


def links_of(document: PolicyDocument, file: str) -> tuple[Link, ...]:
    """The symlinks on the way to what the rules name, as they are now. Raises PolicyError for too
    many.
    """
    heads = {
        head
        for rule in document.rules
        for head in (
            *(canonical(text) for text in rule.match.path_prefix or ()),
            *(Glob.parse(text).head for text in rule.match.path_glob or ()),
        )
    }
    found: dict[bytes, Link] = {}
    plain: set[bytes] = set()
    for head in sorted(heads):
        _follow(head, found, plain)
        if len(found) > _MOST_LINKS:
            reason = f"names paths through more than {_MOST_LINKS} symlinks; write their targets"
            raise PolicyError(file, "rules", reason)
    return tuple(found[written] for written in sorted(found))


def shown(path: Path) -> str:
    """The path for messages: printable whatever its bytes are."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return text if text.isprintable() else ascii(text)[1:-1]


def _is_policy(name: str) -> bool:
    return name.endswith(".json") and not name.startswith(".")


def _read(path: Path, name: str, folder: int | None, managed: ManagedFolder | None) -> bytes | None:
    try:
        # Looked at before it is opened: opening a device or a pipe may do something by itself.
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        _check_regular(path, status)
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        descriptor = os.open(name, flags, dir_fd=folder)
        with open(descriptor, "rb") as stream:
            status = os.fstat(descriptor)
            _check_regular(path, status)
            if managed:
                _check_owner(path, status, managed)
            data = stream.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, error) from error
    if len(data) > MAX_FILE_BYTES:
        raise PolicyError(shown(path), "", f"is larger than {MAX_FILE_BYTES} bytes")
    return data


def _check_regular(path: Path, status: os.stat_result) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise PolicyError(shown(path), "", "is a symlink; put the file itself here")
    if not stat.S_ISREG(status.st_mode):
        raise PolicyError(shown(path), "", "is not a regular file")


def _check_owner(path: Path, status: os.stat_result, managed: ManagedFolder) -> None:
    if status.st_uid not in managed.owners:
        raise PolicyError(
            shown(path), "", f"belongs to uid {status.st_uid}, who may not make managed policy"
        )
    if status.st_mode & _OTHERS_WRITE:
        raise PolicyError(
            shown(path), "", "can be written by others; take their right with chmod go-w"
        )


def _check_ancestors(managed: ManagedFolder) -> None:
    folder = managed.path
    if os.path.realpath(folder) != os.path.abspath(folder):
        raise PolicyError(shown(folder), "", "is reached through a symlink")
    for above in Path(os.path.abspath(folder)).parents:
        status = os.stat(above)
        sticky = status.st_mode & stat.S_ISVTX
        if status.st_uid not in managed.owners or (status.st_mode & _OTHERS_WRITE and not sticky):
            reason = f"can be replaced by others, who can write {shown(above)}"
            raise PolicyError(shown(folder), "", reason)


def _unusable(path: Path, error: OSError) -> PolicyError:
    if error.errno == errno.ENOTDIR:
        return PolicyError(shown(path), "", "is not a folder, or is a symlink to one")
    return PolicyError(shown(path), "", f"cannot be read: {error.strerror or error}")


def _stamp(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.lstat(path)
    except OSError:
        return None
    return (
        status.st_dev,
        status.st_ino,
        status.st_mode,
        status.st_uid,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


def _follow(head: bytes, found: dict[bytes, Link], plain: set[bytes]) -> None:
    """Walks a path as written and notes each component that is a symlink, with where it leads."""
    written = b""
    trusted = True
    for name in head.split(b"/")[1:] if head != b"/" else ():
        written += b"/" + name
        if written in plain:
            continue
        if written not in found:
            try:
                status = os.lstat(written)
            except OSError:
                return
            if not stat.S_ISLNK(status.st_mode):
                plain.add(written)
                continue
            target = os.path.realpath(written)
            found[written] = Link(written, target, trusted and _made_by_root(written, target))
        trusted = found[written].trusted


def _made_by_root(link: bytes, target: bytes) -> bool:
    """Whether only root can have made this link, and it leads straight to `target`."""
    parent = os.path.realpath(os.path.dirname(link))
    try:
        if os.path.normpath(os.path.join(parent, os.readlink(link))) != target:
            return False
        statuses = [os.lstat(link), os.stat(parent)]
        while parent != b"/":
            parent = os.path.dirname(parent)
            statuses.append(os.stat(parent))
    except OSError:
        return False
    folders = statuses[1:]
    return all(s.st_uid == ROOT for s in statuses) and not any(
        s.st_mode & _OTHERS_WRITE for s in folders
    )
