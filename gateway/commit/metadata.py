"""What a file has besides its content: mode, owner, times, extended attributes and ACL.

Read from one object and given to another by descriptor. An O_PATH descriptor takes none of the
calls itself; `path_of` is a path to its object that they do take.
"""

import errno
import os
import stat
from collections.abc import Iterable
from contextlib import suppress

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

STORED = ConfigDict(ser_json_bytes="base64", val_json_bytes="base64")
"""How what is written to the journal holds bytes."""

_NOT_OURS = (errno.EPERM, errno.ENOTSUP, errno.EACCES, errno.ENODATA)


@dataclass(frozen=True, slots=True, config=STORED)
class Metadata:
    """What a new file gets. `kept` are the extended attributes, ACL included, of the file that it
    replaces or comes from; `xattrs` are set over them, None taking one away. What is None stays as
    it is made."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    times_ns: tuple[int, int] | None = None
    xattrs: tuple[tuple[bytes, bytes | None], ...] = ()
    kept: tuple[tuple[str, bytes], ...] = ()

    @classmethod
    def of(
        cls,
        original: int | str,
        mode: int | None = None,
        uid: int | None = None,
        gid: int | None = None,
        times_ns: tuple[int, int] | None = None,
        xattrs: tuple[tuple[bytes, bytes | None], ...] = (),
    ) -> "Metadata":
        """Those of an open file, or of `path_of` one, as they are now, but for what is given.
        Raises OSError."""
        status = os.stat(original)
        return cls(
            stat.S_IMODE(status.st_mode) if mode is None else mode,
            status.st_uid if uid is None else uid,
            status.st_gid if gid is None else gid,
            times_ns,
            xattrs,
            all_xattrs(original),
        )

    def give(self, target: int | str) -> None:
        """Set it all on an open file or folder, or on `path_of` one. Raises OSError."""
        mode, uid, gid = self.mode, self.uid, self.gid
        for name, value in self.kept:
            try:
                os.setxattr(target, name, value)
            except OSError as error:
                if error.errno not in _NOT_OURS:
                    raise
        if uid is not None or gid is not None:
            own = os.stat(target)
            others = uid not in (None, own.st_uid) or gid not in (None, own.st_gid)
            if others and not _give_away(target, uid, gid):
                mode = None if mode is None else mode & 0o777
        for key, wanted in self.xattrs:
            if wanted is not None:
                os.setxattr(target, key, wanted)
            else:
                with suppress(OSError):
                    os.removexattr(target, key)
        if mode is not None:
            os.chmod(target, mode & 0o7777)
        if self.times_ns is not None:
            os.utime(target, ns=self.times_ns)


def _give_away(target: int | str, uid: int | None, gid: int | None) -> bool:
    """Set owner and group as far as this process may; False if that was not all. Who may not give
    a file away keeps it, and its set-id bits would then be his."""
    owner, group = -1 if uid is None else uid, -1 if gid is None else gid
    try:
        os.chown(target, owner, group)
    except PermissionError:
        with suppress(PermissionError):
            os.chown(target, -1, group)  # a group that this user is in
        return False
    return True


def path_of(pin: int) -> str:
    """A path to the object of an O_PATH descriptor."""
    return f"/proc/self/fd/{pin}"


def some_xattrs(target: str, names: Iterable[bytes]) -> tuple[tuple[bytes, bytes | None], ...]:
    """What a file has of these extended attributes, None where it has not got one."""
    found: list[tuple[bytes, bytes | None]] = []
    for name in names:
        try:
            found.append((name, os.getxattr(target, name)))
        except OSError:
            found.append((name, None))
    return tuple(found)


def all_xattrs(target: int | str) -> tuple[tuple[str, bytes], ...]:
    """What a file has of extended attributes that this process may see. Raises OSError."""
    try:
        names = os.listxattr(target)
    except OSError as error:
        if error.errno in _NOT_OURS:
            return ()
        raise
    found = []
    for name in names:
        try:
            found.append((name, os.getxattr(target, name)))
        except OSError as error:
            if error.errno not in _NOT_OURS:
                raise
    return tuple(found)
