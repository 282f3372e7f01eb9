"""A change as members of a tar, in the form of a container image's layer.

What was added or changed is there as it is now; what is gone has an empty file `.wh.NAME` beside it
(the whiteouts of the OCI image specification, layer.md). Names are bytes, relative to the mount's
root; owners are left out, they say nothing elsewhere. Pure functions; any thread may call them.
"""

import stat
import tarfile

from gateway.audit.events import show_name
from gateway.errors import GrantfsError
from gateway.review.patch import Side

END = bytes(2 * tarfile.BLOCKSIZE)
"""What ends a tar."""

_WHITEOUT = b".wh."


def members(path: bytes, gone: bytes | None, new: Side | None, mtime: float = 0) -> bytes:
    """The tar members of one change: *path* as *new* has it, none if it is None; *gone* is what
    goes. *mtime* in seconds since the epoch. Raises GrantfsError for a name that says something
    else there."""
    if any(name.startswith(_WHITEOUT) for name in path.split(b"/")):
        # It would remove something of its reader's.
        raise GrantfsError(f"{show_name(path)}: a tar of this form cannot hold the name")
    found = _whiteout(gone) if gone is not None else b""
    if new is None:
        return found
    member = tarfile.TarInfo(_name(path))
    member.mode = stat.S_IMODE(new.mode) & 0o777
    member.mtime = mtime
    data = b""
    if stat.S_ISLNK(new.mode):
        member.type = tarfile.SYMTYPE
        member.linkname = _name(new.data)
    elif stat.S_ISDIR(new.mode):
        member.type = tarfile.DIRTYPE
    elif stat.S_ISREG(new.mode):
        data = new.data
        member.size = len(data)
    else:
        return found  # pipes, sockets and devices are not committed either
    return found + _header(member) + data + bytes(-len(data) % tarfile.BLOCKSIZE)


def _whiteout(path: bytes) -> bytes:
    folder, slash, name = path.rpartition(b"/")
    member = tarfile.TarInfo(_name(folder + slash + _WHITEOUT + name))
    member.mode = 0o600
    return _header(member)


def _header(member: tarfile.TarInfo) -> bytes:
    return member.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _name(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
