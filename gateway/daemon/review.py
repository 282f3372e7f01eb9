"""Review of a workspace's stage: what changed, in masked form, with conflicts and flags.

The core's task finds changes and opens what they are about (`open_sides`); reading, scanning and
diffing, which may take long, work on those descriptors in a worker thread (`Reviewed`).
"""

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from gateway.audit.events import show_name
from gateway.review import archive
from gateway.review.flags import exposes, flags_for
from gateway.review.hunks import Hunk, count_lines, hunks, is_binary
from gateway.review.patch import Side, file_patch
from vfs.attributes import Fingerprint
from vfs.filesystem import Filesystem
from vfs.projection import Projection
from vfs.redaction import Redactor, Restoration
from vfs.redaction.restore import Mode
from vfs.stage.changes import Change, ChangeFinder, Kind
from vfs.stage.links import LinkNames
from vfs.statx import Stat, stat_fd

DIFF_BYTES = 16 * 1024 * 1024
"""Files above this are shown by size alone, as binary ones are; they commit like any other."""


@dataclass(slots=True)
class Opened:
    """One side of a change, opened: a descriptor or bytes; `raw` if it is a source's own bytes,
    `sparse` if it has holes."""

    mode: int
    fd: int = -1
    data: bytes | None = None
    raw: bool = False
    version: Stat | None = None
    profile: str = "strict"
    sparse: bool = False

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
    """Both sides of a change as they are shown, and what a commit needs besides.

    `source` is the source's present object at the old place; `base` the source's own bytes that
    placeholders on the new side may stand for, under `profile`; `writes` the staged inode's
    counter when it was opened, which a commit compares; `links` its number of names; `xattrs` what
    is staged of extended attributes, None for a removal; `expected` what the source held at the old
    place when the stage first covered it.
    """

    change: Change
    profile: str
    old: Opened | None = None
    new: Opened | None = None
    source: Opened | None = None
    base: Opened | None = None
    writes: int = 0
    links: int = 1
    xattrs: tuple[tuple[bytes, bytes | None], ...] = ()
    expected: Fingerprint | None = None
    conflict: str | None = None

    def close(self) -> None:
        """Close all descriptors."""
        for side in (self.old, self.new, self.source, self.base):
            if side is not None:
                side.close()


@dataclass(slots=True)
class Reviewed:
    """A change as the user sees it; `old` and `new` are masked.

    They are the memory that a review takes: `summarize` and `render` let go of them.
    """

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
    added: int = 0
    removed: int = 0
    text: bytes = b""

    def summarize(self) -> None:
        """Keep what `status` shows."""
        self.added, self.removed = count_lines(self.hunks)
        self.old = self.new = None
        self.hunks = []

    def render(self, binary: bool = False) -> None:
        """Keep what `diff` shows as well: the hunks and, as `text`, the patch."""
        self.text = self.patch(binary)
        hunks = self.hunks
        self.summarize()
        self.hunks = hunks

    def let_go(self) -> None:
        """Drop what has been shown."""
        self.hunks = []
        self.text = b""

    @property
    def letter(self) -> str:
        """The change as a letter of git's."""
        change = self.change
        if change.kind is Kind.RENAMED:
            return "R"
        if change.old is None or change.item is None:
            return "A" if change.old is None else "D"
        return "M" if stat.S_IFMT(change.old.mode) == change.item.kind else "T"

    @property
    def path(self) -> str:
        """Path relative to the mount's root, as text."""
        return show_name(self.change.path)

    def to_json(self) -> dict[str, object]:
        """The object of `status`, once summarized."""
        origin = self.change.from_path
        return {
            "path": self.path,
            "kind": self.change.kind.value,
            "from": None if origin is None else show_name(origin),
            "binary": self.binary,
            "added": self.added,
            "removed": self.removed,
            "conflict": self.conflict is not None,
            "flags": self.flags,
            "placeholders": self.placeholders,
        }

    def patch(self, binary: bool = False) -> bytes:
        """The change as a unified diff that `git apply` takes."""
        sides = [side for side in (self.old, self.new) if side is not None]
        if not sides or any(not _shown_by_git(side.mode) for side in sides):
            return b""
        origin = self.change.from_path
        return file_patch(self.change.path, origin, self.old, self.new, binary=binary)


def _shown_by_git(mode: int) -> bool:
    return stat.S_ISREG(mode) or stat.S_ISLNK(mode)


class Reviewer:
    """Finds and opens changes; on the core's task, but for the static methods."""

    def __init__(self, fs: Filesystem, redactor: Redactor, digest_key: bytes) -> None:
        self._fs = fs
        self._redactor = redactor
        self._key = digest_key
        self._finder = ChangeFinder(fs.union)
        self._links = LinkNames(fs.union)

    def find(self, projections: Sequence[Projection]) -> list[Change]:
        """Every staged change, sorted by path in the mount. Raises OSError."""
        for projection in projections:
            if self._fs.tree.top(projection.id) is not None:
                self._links.name_all(projection)
        found = [change for projection in projections for change in self._finder.find(projection)]
        return sorted(found, key=lambda change: change.path)

    def settled(self) -> None:
        """A commit or discard has changed stage and sources."""
        self._links.forget()

    # -- opening, on the core's task -------------------------------------------------------

    def open_sides(self, change: Change) -> Sides:
        """Open what a change is about; what cannot be opened is a conflict. The caller closes."""
        base = self._fs.tree.bases.get((change.projection.id, change.old_place or b""))
        known = base is not None and change.old_place is not None
        sides = Sides(change, "strict", expected=base.fingerprint if base and known else change.old)
        if change.taken:
            sides.conflict = "the source has something there now"
        try:
            sides.source = self._source(change, sides)
            sides.old = self._old(change)
            sides.new = self._new(change, sides)
            sides.base = self._base(change, sides)
        except OSError as error:
            if sides.conflict is None:
                sides.conflict = f"it cannot be read: {error.strerror}"
        except BaseException:
            sides.close()
            raise
        return sides

    def _profile(self, projection: Projection, path: bytes) -> str:
        return self._fs.gate.profile(projection.id, projection.source.host_path(path))

    def _source_side(self, projection: Projection, path: bytes, kind: int) -> Opened:
        profile = self._profile(projection, path)
        if kind == stat.S_IFREG:
            fd, version = projection.source.open_file(path)
            return Opened(version.mode, fd=fd, raw=True, version=version, profile=profile)
        version = projection.source.stat(path)
        data = projection.source.readlink(path) if stat.S_ISLNK(version.mode) else b""
        return Opened(version.mode, data=data, raw=bool(data), version=version, profile=profile)

    def _source(self, change: Change, sides: Sides) -> Opened | None:
        """The source's object at the old place as it is now."""
        if change.old_place is None or change.old is None:
            return None
        projection = change.projection
        try:
            now = projection.source.stat(change.old_place)
        except (FileNotFoundError, NotADirectoryError):
            sides.conflict = "the source's file is gone"
            return None
        if now.kind != stat.S_IFMT(change.old.mode):
            sides.conflict = "the source has something else there now"
            return None
        if change.kind in (Kind.MODE, Kind.DELETED) and self._kept_body(change) is not None:
            return Opened(now.mode, data=b"", version=now)
        try:
            return self._source_side(projection, change.old_place, now.kind)
        except PermissionError:
            # Not ours to read: it can be moved, removed or given another mode all the same.
            return Opened(now.mode, data=b"", version=now)

    def _kept_body(self, change: Change) -> int | None:
        base = self._fs.tree.bases.get((change.projection.id, change.old_place or b""))
        return None if base is None else base.body

    def _old(self, change: Change) -> Opened | None:
        if change.old_place is None or change.old is None:
            return None
        body = self._kept_body(change)
        if body is not None:
            return Opened(change.old.mode, fd=self._fs.bodies.open(body))
        try:
            kind = stat.S_IFMT(change.old.mode)
            side = self._source_side(change.projection, change.old_place, kind)
        except OSError:
            return Opened(change.old.mode, data=b"")
        side.mode = change.old.mode
        return side

    def _new(self, change: Change, sides: Sides) -> Opened | None:
        item = change.item
        if item is None:
            return None
        inode = self._fs.tree.inodes.get(item.ino) if item.ino is not None else None
        if inode is not None:
            sides.writes = inode.writes
            sides.xattrs = tuple(sorted(inode.xattrs.items()))
            if not inode.is_folder:
                sides.links = inode.nlink or 1
            if inode.target is not None:
                return Opened(item.mode, data=inode.target)
            if inode.body is not None:
                fd = self._fs.bodies.open(inode.body)
                status = os.fstat(fd)
                return Opened(item.mode, fd=fd, sparse=status.st_blocks * 512 < status.st_size)
        if item.origin is None or item.kind not in (stat.S_IFREG, stat.S_IFLNK):
            return Opened(item.mode, data=b"")
        try:
            side = self._source_side(change.projection, item.origin, item.kind)
        except PermissionError:
            if change.kind in (Kind.MODE, Kind.RENAMED):
                return Opened(item.mode, data=b"")
            raise
        side.mode = item.mode
        return side

    def _base(self, change: Change, sides: Sides) -> Opened | None:
        """What placeholders on the new side may stand for: the file that it was made from, else
        the one that it replaces."""
        if sides.new is None or sides.new.raw or not stat.S_ISREG(sides.new.mode):
            return None
        item = change.item
        for path in (item.origin if item is not None else None, change.old_place):
            if path is None:
                continue
            sides.profile = self._profile(change.projection, path)
            try:
                return self._source_side(change.projection, path, stat.S_IFREG)
            except OSError:
                continue
        return None

    # -- working, in a thread --------------------------------------------------------------

    def conflict(self, sides: Sides) -> str | None:
        """Why a change cannot land on the source as it is now; None if it can.

        Compares content where times differ: a touched but equal file is no conflict. A change of
        mode asks for the old mode alone.
        """
        if sides.conflict is not None:
            return sides.conflict
        change, old = sides.change, sides.expected
        if old is None or sides.source is None or sides.source.version is None:
            return None
        now = sides.source.version
        if change.kind is Kind.MODE:
            same = (now.mode, now.uid, now.gid) == (old.mode, old.uid, old.gid)
            return None if same else "its mode or owner in the source changed"
        if stat.S_ISDIR(old.mode):
            return None  # it goes only if it is empty
        if (now.dev, now.ino, now.size, now.mtime_ns, now.ctime_ns) == (
            old.dev, old.ino, old.size, old.mtime_ns, old.ctime_ns,
        ):  # fmt: skip
            return None
        if old.digest is None or old.size != now.size or now.mode != old.mode:
            return "the source changed"
        if hmac.new(self._key, sides.source.read(), hashlib.sha256).digest() != old.digest:
            return "the source changed"
        return None

    def read_masked(self, side: Opened | None) -> Side | None:
        """A side as it may be shown: bytes of a source masked."""
        if side is None:
            return None
        data = side.read()
        if side.raw:
            data = self._mask(data, side.profile)
        return Side(side.mode, data)

    def look_at(self, change: Change) -> tuple[bytes, bytes]:
        """The source's own bytes at a change's place, and what the agent may see of them. Raises
        OSError, ScanError."""
        side = self._source_side(change.projection, change.place, stat.S_IFREG)
        try:
            data = side.read()
        finally:
            side.close()
        return data, self._mask(data, side.profile)

    def pack(self, sides: Sides) -> bytes:
        """A change in masked form as members of a tar. Raises OSError, ScanError."""
        change, new = sides.change, sides.new
        lost = new is None and change.item is not None
        if lost or (new is not None and stat.S_ISREG(new.mode) and new.fd < 0):
            raise OSError(errno.EIO, f"{show_name(change.path)}: {sides.conflict or 'unreadable'}")
        gone = change.path if change.item is None else change.from_path
        mtime = os.fstat(new.fd).st_mtime if new is not None and new.fd >= 0 else 0
        return archive.members(change.path, gone, self.read_masked(new), mtime)

    def _mask(self, data: bytes, profile: str) -> bytes:
        findings = self._redactor.findings(data, profile)
        return self._redactor.masker.mask(data, findings)

    def restoration(self, sides: Sides, staged: bytes, mode: Mode = "ask") -> Restoration:
        """The staged bytes with the base's secrets put back. Raises ScanError."""
        base = sides.base.read() if sides.base is not None else b""
        profile = sides.profile if sides.base is not None else "none"
        return self._redactor.restore(staged, base, profile, mode=mode)

    def review(self, sides: Sides) -> Reviewed:
        """Read, scan and diff one change. For worker threads; OSError if it cannot be read."""
        change = sides.change
        conflict = self.conflict(sides)
        if any(
            side is not None and side.fd >= 0 and stat_fd(side.fd).size > DIFF_BYTES
            for side in (sides.old, sides.new)
        ):
            return self._big(sides, conflict)
        old = self.read_masked(sides.old)
        new = self.read_masked(sides.new)
        texts = [side.data for side in (old, new) if side is not None]
        binary = any(is_binary(text) for text in texts)
        found = []
        if not binary and not change.is_folder:
            found = hunks(old.data if old else b"", new.data if new else b"", path=change.path)
        reviewed = Reviewed(
            change, conflict, old, new, binary, found, self._flags(sides, old, new, binary), 0, 0,
            sides.writes, self._digest(sides, new),
        )  # fmt: skip
        restored = self._judge_placeholders(sides, reviewed)
        self._judge_secrets(sides, reviewed, restored)
        return reviewed

    def _flags(self, sides: Sides, old: Side | None, new: Side | None, binary: bool) -> list[str]:
        change = sides.change
        return flags_for(
            show_name(change.path), show_name(change.place),
            sides.old.mode if sides.old else None, sides.new.mode if sides.new else None,
            old.data if old else None, new.data if new else None, binary, links=sides.links,
            attributes=bool(sides.xattrs), owner=self._changes_owner(change),
        )  # fmt: skip

    @staticmethod
    def _changes_owner(change: Change) -> bool:
        if change.old is None or change.item is None:
            return False
        return (change.old.uid, change.old.gid) != (change.item.uid, change.item.gid)

    def _judge_secrets(self, sides: Sides, reviewed: Reviewed, restored: int) -> None:
        """Secrets that the change shows to more people, or that the agent wrote itself."""
        change, new = sides.change, sides.new
        if new is None or reviewed.new is None or not stat.S_ISREG(new.mode):
            return
        old_mode = sides.old.mode if sides.old is not None else None
        if exposes(change.place, change.old_place, old_mode, new.mode) and (
            restored or (new.raw and new.read() != reviewed.new.data)
        ):
            reviewed.flags.append("secret-exposed")
        if not new.raw:
            before = reviewed.old.data if reviewed.old is not None else b""
            if self._redactor.values(reviewed.new.data) - self._redactor.values(before):
                reviewed.flags.append("secret-added")

    def _judge_placeholders(self, sides: Sides, reviewed: Reviewed) -> int:
        """Notes what becomes of placeholders; returns how many are put back."""
        if sides.new is None or sides.new.raw or not stat.S_ISREG(sides.new.mode):
            return 0
        outcome = self.restoration(sides, sides.new.read())
        reviewed.placeholders = outcome.restored + len(outcome.undecided)
        reviewed.undecided = len(outcome.undecided)
        reviewed.flags += sorted({f"placeholder-{one.why}" for one in outcome.undecided})
        if outcome.dropped:
            reviewed.flags.append("secret-dropped")
        return outcome.restored

    def _big(self, sides: Sides, conflict: str | None) -> Reviewed:
        digest = self._new_digest(sides)
        new = sides.new
        if new is not None and new.fd >= 0:
            at = 0
            while part := os.pread(new.fd, 1 << 20, at):
                digest.update(part)
                at += len(part)
        flags = self._flags(sides, None, None, True)
        if "large" not in flags:
            flags.append("large")
        reviewed = Reviewed(
            sides.change, conflict, None, None, True, [], flags, 0, 0, sides.writes,
            digest.digest(),
        )  # fmt: skip
        restored = self._judge_placeholders(sides, reviewed)
        self._judge_secrets(sides, reviewed, restored)
        return reviewed

    def _digest(self, sides: Sides, new: Side | None) -> bytes:
        digest = self._new_digest(sides)
        if new is not None:
            digest.update(new.data)
        return digest.digest()

    def _new_digest(self, sides: Sides) -> hmac.HMAC:
        """A digest of a change's new side, its attributes taken in."""
        digest = hmac.new(self._key, digestmod=hashlib.sha256)
        for name, value in sides.xattrs:
            digest.update(b"%d:%s%d:%s" % (len(name), name, len(value or b""), value or b""))
            digest.update(b"-" if value is None else b"+")
        digest.update(b"\n")
        return digest

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
