"""Review of a workspace's stage: what changed, in masked form, with conflicts and flags.

The core's task finds changes and opens what they are about (`open_sides`); reading, scanning and
diffing, which may take long, work on those descriptors in a worker thread (`Reviewed`).
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.audit.events import show_name
from gateway.review.flags import flags_for
from gateway.review.hunks import Hunk, count_lines, hunks, is_binary
from gateway.review.patch import Side, file_patch
from vfs.filesystem import Filesystem
from vfs.projection import Projection
from vfs.redaction import Redactor, Restoration
from vfs.stage.changes import Change, ChangeFinder
from vfs.statx import Stat, stat_fd

DIFF_BYTES = 16 * 1024 * 1024
"""Files above this are shown by size alone, as binary ones are; they commit like any other."""


@dataclass(slots=True)
class Opened:
    """One side of a change, opened: a descriptor or bytes; `raw` if it is a source's own bytes."""

    mode: int
    fd: int = -1
    data: bytes | None = None
    raw: bool = False
    version: Stat | None = None

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def read(self) -> bytes:
        """All bytes. For worker threads."""
        if self.data is None:
            parts = []
            at = 0
            while part := os.pread(self.fd, 1 << 20, at):
                parts.append(part)
                at += len(part)
            self.data = b"".join(parts)
        return self.data


@dataclass(slots=True)
class Sides:
    """Both sides of a change and, where it can be had, the unmasked base for restoring.

    `writes` is the staged inode's counter when it was opened: a commit compares it.
    """

    change: Change
    profile: str
    old: Opened | None
    new: Opened | None
    base: Opened | None
    writes: int
    conflict: str | None = None

    def close(self) -> None:
        """Close all descriptors."""
        for side in (self.old, self.new, self.base):
            if side is not None:
                side.close()


@dataclass(slots=True)
class Reviewed:
    """A change as the user sees it; `old` and `new` are masked."""

    change: Change
    conflict: str | None
    old: Side | None
    new: Side | None
    binary: bool
    hunks: list[Hunk]
    flags: list[str]
    placeholders: int
    undecided: int
    writes: int
    digest: bytes

    @property
    def path(self) -> str:
        """Path relative to the mount's root, as text."""
        return show_name(self.change.path)

    def to_json(self) -> dict[str, object]:
        """The object of `status`."""
        added, removed = count_lines(self.hunks)
        origin = self.change.from_path
        return {
            "path": self.path,
            "kind": self.change.kind.value,
            "from": None if origin is None else show_name(origin),
            "binary": self.binary,
            "added": added,
            "removed": removed,
            "conflict": self.conflict is not None,
            "flags": self.flags,
            "placeholders": self.placeholders,
        }

    def patch(self, binary: bool = False) -> bytes:
        """The change as a unified diff that `git apply` takes."""
        if self.change.is_folder:
            return b""
        origin = self.change.from_path
        return file_patch(self.change.path, origin, self.old, self.new, binary=binary)


class Reviewer:
    """Finds and opens changes; on the core's task, but for the static methods."""

    def __init__(self, fs: Filesystem, redactor: Redactor, digest_key: bytes) -> None:
        self._fs = fs
        self._redactor = redactor
        self._key = digest_key
        self._finder = ChangeFinder(fs.union)

    def find(self, projections: Sequence[Projection]) -> list[Change]:
        """Every staged change, sorted by path in the mount."""
        found = [change for projection in projections for change in self._finder.find(projection)]
        return sorted(found, key=lambda change: change.path)

    # -- opening, on the core's task -------------------------------------------------------

    def open_sides(self, change: Change) -> Sides:
        """Open what a change is about. The caller closes it."""
        projection = change.projection
        host_path = projection.source.host_path(change.old_place or change.place)
        profile = self._fs.gate.profile(projection.id, host_path)
        sides = Sides(change, profile, None, None, None, 0)
        try:
            sides.old = self._old(change)
            sides.new = self._new(change, sides)
            sides.base = self._base(change)
        except BaseException:
            sides.close()
            raise
        return sides

    def _source_side(self, projection: Projection, path: bytes, mode: int) -> Opened:
        if stat.S_ISLNK(mode):
            return Opened(mode, data=projection.source.readlink(path))
        if not stat.S_ISREG(mode):
            return Opened(mode, data=b"")
        fd, version = projection.source.open_file(path)
        return Opened(mode, fd=fd, raw=True, version=version)

    def _old(self, change: Change) -> Opened | None:
        if change.old_place is None or change.old is None:
            return None
        base = self._fs.tree.bases.get((change.projection.id, change.old_place))
        if base is not None and base.body is not None:
            return Opened(change.old.mode, fd=self._fs.bodies.open(base.body))
        try:
            return self._source_side(change.projection, change.old_place, change.old.mode)
        except OSError:
            return Opened(change.old.mode, data=b"")

    def _new(self, change: Change, sides: Sides) -> Opened | None:
        item = change.item
        if item is None:
            return None
        inode = self._fs.tree.inodes.get(item.ino) if item.ino is not None else None
        mode = item.mode
        if inode is not None and inode.mode is None and change.old is not None:
            mode = change.old.mode
        if inode is not None:
            sides.writes = inode.writes
            if inode.target is not None:
                return Opened(mode, data=inode.target)
            if inode.body is not None:
                return Opened(mode, fd=self._fs.bodies.open(inode.body))
        if item.origin is None or not (stat.S_ISREG(mode) or stat.S_ISLNK(mode)):
            return Opened(mode, data=b"")
        return self._source_side(change.projection, item.origin, mode)

    def _base(self, change: Change) -> Opened | None:
        """The source's own bytes that placeholders on the new side may stand for."""
        if change.old_place is None or change.old is None or not stat.S_ISREG(change.old.mode):
            return None
        try:
            return self._source_side(change.projection, change.old_place, change.old.mode)
        except OSError:
            return None

    # -- working, in a thread --------------------------------------------------------------

    def conflict(self, change: Change, base: Opened | None) -> str | None:
        """Why a change cannot land on the source as it is now; None if it can.

        Compares content where times differ: a touched but equal file is no conflict.
        """
        if change.old_place is None:
            return None
        if change.old is None:
            return "the source has something there now"
        old = change.old
        if not stat.S_ISREG(old.mode):
            return None
        if base is None or base.version is None:
            return "the source's file is gone or cannot be read"
        now = base.version
        same = (now.dev, now.ino, now.size, now.mtime_ns, now.ctime_ns) == (
            old.dev, old.ino, old.size, old.mtime_ns, old.ctime_ns,
        )  # fmt: skip
        if same:
            return None
        if old.digest is None or old.size != now.size:
            return "the source changed"
        if hmac.new(self._key, base.read(), hashlib.sha256).digest() != old.digest:
            return "the source changed"
        return None

    def read_masked(self, side: Opened | None, profile: str) -> Side | None:
        """A side as it may be shown: bytes of a source masked."""
        if side is None:
            return None
        data = side.read()
        if side.raw:
            data = self._mask(data, profile)
        return Side(side.mode, data)

    def _mask(self, data: bytes, profile: str) -> bytes:
        findings = self._redactor.findings(data, profile)
        return self._redactor.masker.mask(data, findings)

    def restoration(self, sides: Sides, staged: bytes, mode: str = "ask") -> Restoration:
        """The staged bytes with the base's secrets put back."""
        base = sides.base.read() if sides.base is not None else b""
        return self._redactor.restore(staged, base, sides.profile, mode=mode)  # type: ignore[arg-type]

    def review(self, sides: Sides) -> Reviewed:
        """Read, scan and diff one change. For worker threads; OSError if it cannot be read."""
        change = sides.change
        conflict = sides.conflict or self.conflict(change, sides.base)
        big = any(
            side is not None and side.fd >= 0 and stat_fd(side.fd).size > DIFF_BYTES
            for side in (sides.old, sides.new)
        )
        if big:
            return self._big(sides, conflict)
        old = self.read_masked(sides.old, sides.profile)
        new = self.read_masked(sides.new, sides.profile)
        texts = [side.data for side in (old, new) if side is not None]
        binary = any(is_binary(text) for text in texts)
        found = []
        if not binary and not change.is_folder:
            found = hunks(old.data if old else b"", new.data if new else b"", path=change.path)
        flags = flags_for(
            show_name(change.path), show_name(change.place),
            old.mode if old else None, new.mode if new else None,
            old.data if old else None, new.data if new else None, binary,
        )  # fmt: skip
        placeholders = undecided = 0
        staged = sides.new is not None and not sides.new.raw and stat.S_ISREG(sides.new.mode)
        if staged and new is not None and conflict is None and sides.profile != "none":
            outcome = self.restoration(sides, new.data)
            placeholders = outcome.restored + len(outcome.undecided)
            undecided = len(outcome.undecided)
            flags += sorted({f"placeholder-{one.why}" for one in outcome.undecided})
            if outcome.dropped:
                flags.append("secret-dropped")
        return Reviewed(
            change, conflict, old, new, binary, found, flags, placeholders, undecided,
            sides.writes, self._digest(change, new),
        )  # fmt: skip

    def _big(self, sides: Sides, conflict: str | None) -> Reviewed:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        new = sides.new
        if new is not None and new.fd >= 0:
            at = 0
            while part := os.pread(new.fd, 1 << 20, at):
                digest.update(part)
                at += len(part)
        change = sides.change
        old_mode = sides.old.mode if sides.old is not None else None
        new_mode = new.mode if new is not None else None
        flags = flags_for(
            show_name(change.path), show_name(change.place), old_mode, new_mode, None, None, True
        )
        flags.append("large")
        return Reviewed(
            change, conflict, None, None, True, [], flags, 0, 0, sides.writes, digest.digest()
        )

    def _digest(self, change: Change, new: Side | None) -> bytes:
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        if new is not None:
            digest.update(new.data)
        return digest.digest()

    def set_digest(self, reviewed: Sequence[Reviewed]) -> str:
        """Digest of a whole change set: what `commit --digest` compares."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for one in reviewed:
            change = one.change
            parts = [
                change.path, change.kind.value.encode(), change.from_path or b"",
                b"%o" % (change.item.mode if change.item is not None else 0), one.digest,
            ]  # fmt: skip
            for part in parts:
                digest.update(b"%d:" % len(part) + part)
        return digest.hexdigest()
