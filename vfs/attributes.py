"""Plain attribute, caller and fingerprint types that the core takes and returns."""

import stat
from dataclasses import dataclass


@dataclass(slots=True)
class Attributes:
    """What `stat` shows of a node: sizes in bytes, times in nanoseconds since the epoch."""

    ino: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    size: int
    blocks: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int

    @property
    def kind(self) -> int:
        """The file type bits of the mode (`S_IFREG` and so on)."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: ids of the calling thread, and the umask the kernel reports with it."""

    uid: int
    gid: int
    pid: int
    umask: int = 0


@dataclass(frozen=True, slots=True)
class SetAttributes:
    """The attributes a caller wants changed; None leaves one as it is."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    size: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a source object was when it was first covered by the stage.

    `digest` is an HMAC of the source's own bytes under a workspace key (a plain hash of a file
    with one short unknown would give the unknown away), or None where no content was read:
    metadata changes, deletions, and everything that is not a regular file.
    """

    dev: int
    ino: int
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    ctime_ns: int
    digest: bytes | None = None

    def same_version(self, other: "Fingerprint") -> bool:
        """True if both describe one unchanged object, judged by identity, size and times."""
        return (
            self.dev == other.dev
            and self.ino == other.ino
            and self.mode == other.mode
            and self.size == other.size
            and self.mtime_ns == other.mtime_ns
            and self.ctime_ns == other.ctime_ns
        )
