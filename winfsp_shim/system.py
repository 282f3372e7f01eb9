"""What differs between the operating systems that the shim serves: names, errors and options.

Both are plain values, so that the Windows rules are tried on Linux too.
"""

import errno
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

_THREADS = 64
"""Threads of the FUSE library. A scan, or an open that waits for the user, keeps one for as long
as it takes; libfuse's own limit of 10 would let a few of them stop the mount."""

_DEVICES = frozenset(
    {"CON", "PRN", "AUX", "NUL", "CONIN$", "CONOUT$"}
    | {f"{port}{digit}" for port in ("COM", "LPT") for digit in "123456789¹²³"}
)
"""Names that Windows takes for a device whatever their extension (Microsoft, "Naming Files")."""

_FORBIDDEN = frozenset('<>:"\\|?*') | {chr(code) for code in range(32)}
"""Characters that no Windows name holds; `:` would name an alternate data stream."""

_WINDOWS_ERRORS = {errno.ESTALE: errno.ENOENT, errno.EDQUOT: errno.ENOSPC}
"""WinFsp knows the errors of the C runtime alone, and reports any other as a refused access."""


@dataclass(frozen=True, slots=True)
class System:
    """The rules of one operating system.

    `problem` says why it cannot name an entry so, or None. `errors` replaces error numbers that
    its FUSE library does not know. `options` are the library's mount options.
    """

    problem: Callable[[str], str | None]
    errors: Mapping[int, int]
    options: Mapping[str, int | str | bool]

    def components(self, path: str) -> list[bytes]:
        """The names in a path from the root, as the core has them.

        Raises OSError(EINVAL) for a name that this system cannot have.
        """
        # WinFsp asks for "/." to learn whether folders are known by that name too.
        found = [name for name in path.split("/") if name not in ("", ".")]
        for name in found:
            why = self.problem(name)
            if why is not None:
                raise OSError(errno.EINVAL, why)
        return [encode(name) for name in found]

    def error(self, error: OSError) -> OSError:
        """The same error with a number that the library knows; EIO where it has none."""
        number = error.errno or errno.EIO
        return OSError(self.errors.get(number, number), error.strerror)


def encode(text: str) -> bytes:
    """Bytes of what mfusepy decoded: every byte that is not UTF-8 stands in it as a surrogate."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Text that mfusepy will encode to *data* again."""
    return data.decode("utf-8", "surrogateescape")


def _anything(_name: str) -> None:
    return None


def _windows_problem(name: str) -> str | None:
    if any(character in _FORBIDDEN for character in name):
        return "character that Windows does not allow in a name"
    if name.endswith((" ", ".")):
        return "Windows drops a dot or space at the end of a name"
    if name.partition(".")[0].rstrip(" ").upper() in _DEVICES:
        return "name of a Windows device"
    if any("\ud800" <= character <= "\udfff" for character in name):
        return "not UTF-8, which Windows cannot show"
    return None


# No time limits are given to the kernel's caches but nought: see `mount` for why.
LINUX = System(
    _anything,
    {},
    {
        "attr_timeout": 0,
        "entry_timeout": 0,
        "negative_timeout": 0,
        "direct_io": True,
        "use_ino": True,
        "hard_remove": True,
        "default_permissions": True,
        "nosuid": True,
        "nodev": True,
        "fsname": "grantfs",
        "subtype": "grantfs",
        "max_threads": _THREADS,
        "max_idle_threads": _THREADS,
    },
)

WINDOWS = System(
    _windows_problem,
    _WINDOWS_ERRORS,
    {
        "FileInfoTimeout": 0,
        "DirInfoTimeout": 0,
        "EaTimeout": 0,
        "VolumeInfoTimeout": 0,
        "FileSystemName": "grantfs",
        "ThreadCount": _THREADS,
        "uid": -1,
        "gid": -1,
    },
)

PRESENT = WINDOWS if sys.platform == "win32" else LINUX
"""The system that this process runs on."""
