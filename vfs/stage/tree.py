"""The staged tree in memory, kept equal to its rows.

Every change happens inside `transaction`: the rows land together, and if they cannot (a full
disk), the tree is read again from what is on disk, so that memory never tells of a change that
was refused. Holders of a `StagedInode` therefore look it up anew by number each time.
"""

import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from vfs.attributes import Fingerprint
from vfs.stage.bodies import Bodies
from vfs.stage.quota import Quota
from vfs.stage.store import InodeRow, Store, signed, unsigned
from vfs.statx import Stat

log = logging.getLogger(__name__)

WHITEOUT = 0
"""Entry value: the source's entry of this name is gone."""

AGENT_INO = 1 << 52
"""Inode numbers from here on are of objects that the agent made (all stay below 2**53, which
JavaScript's numbers hold exactly)."""


def root_parent(projection: int) -> int:
    """The entry parent under which a projection's own root is staged (its name is b"")."""
    return -projection


@dataclass(slots=True)
class StagedInode:
    """One object of the stage; see the columns of `store` for what None means in each field."""

    ino: int
    projection: int
    kind: int
    origin: bytes | None = None
    identity: tuple[int, int] = (0, 0)
    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    atime_ns: int | None = None
    mtime_ns: int | None = None
    ctime_ns: int | None = None
    nlink: int | None = None
    rdev: int = 0
    body: int | None = None
    target: bytes | None = None
    entries: dict[bytes, int] = field(default_factory=dict)
    xattrs: dict[bytes, bytes | None] = field(default_factory=dict)
    persistent: bool = True
    writes: int = 0
    """Content changes since the daemon started; tells a commit that its input moved."""

    @property
    def is_folder(self) -> bool:
        """True for a directory."""
        return self.kind == stat.S_IFDIR

    @property
    def bare(self) -> bool:
        """True for a folder that is here only as the way to something staged below it."""
        return (
            self.is_folder
            and self.origin is not None
            and self.mode is None
            and self.uid is None
            and self.gid is None
            and not self.entries
            and not self.xattrs
        )

    def row(self) -> InodeRow:
        """The database row."""
        own = self.mode is not None
        dev, ino = self.identity
        return (
            self.ino, self.projection, self.origin, signed(dev), signed(ino),
            self.kind | (self.mode or 0), int(own), self.uid, self.gid,
            self.atime_ns, self.mtime_ns, self.ctime_ns, self.nlink, self.rdev,
            self.body, self.target,
        )  # fmt: skip

    @classmethod
    def from_row(cls, row: InodeRow) -> "StagedInode":
        """The inverse of `row`."""
        (ino, projection, origin, odev, oino, mode, own, uid, gid, at, mt, ct, nlink, rdev,
         body, target) = row  # fmt: skip
        return cls(
            ino, projection, stat.S_IFMT(mode), origin, (unsigned(odev), unsigned(oino)),
            stat.S_IMODE(mode) if own else None, uid, gid, at, mt, ct, nlink, rdev, body, target,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Base:
    """What a source place held when the stage first covered it, and its masked copy's body."""

    fingerprint: Fingerprint
    body: int | None = None


class StageTree:
    """Inodes, names and bases of one workspace's stage."""

    def __init__(self, store: Store, bodies: Bodies, quota: Quota) -> None:
        self.store = store
        self.bodies = bodies
        self.quota = quota
        self.inodes: dict[int, StagedInode] = {}
        self.tops: dict[int, dict[bytes, int]] = {}
        self.bases: dict[tuple[int, bytes], Base] = {}
        self.linked: dict[tuple[int, int, int], int] = {}
        self._folders: dict[tuple[int, bytes], int] = {}
        self._named: Counter[int] = Counter()
        self.names = 0
        self._next = AGENT_INO
        self._depth = 0
        self._doomed: list[int] = []
        self._departed: list[int] = []
        self._undo: list[Callable[[], None]] = []
        quota.make_room = self.tidy_now
        self._load()
        self._mend()
        store.sync()
        named = self._named_bodies()
        bodies.sweep(named)
        for body in named:
            self.note_size(body)

    def _named_bodies(self) -> set[int]:
        named = {inode.body for inode in self.inodes.values() if inode.body is not None}
        return named | {base.body for base in self.bases.values() if base.body is not None}

    def _load(self) -> None:
        orphans = {ino: inode for ino, inode in self.inodes.items() if not inode.persistent}
        writes = {ino: inode.writes for ino, inode in self.inodes.items()}
        self.inodes = {row[0]: StagedInode.from_row(row) for row in self.store.inodes()}
        for inode in self.inodes.values():
            inode.writes = writes.get(inode.ino, 0)
        self.inodes.update(orphans)
        self.tops = {}
        for parent, name, ino in self.store.entries():
            if parent < 0:
                self.tops.setdefault(-parent, {})[name] = ino
            else:
                self.inodes[parent].entries[name] = ino
        self.names = sum(len(inode.entries) for inode in self.inodes.values())
        self._named = Counter()
        for inode in self.inodes.values():
            self._named.update(inode.entries.values())
        for ino, name, value in self.store.xattrs():
            self.inodes[ino].xattrs[name] = value
        self.bases = {
            (projection, path): Base(fingerprint, body)
            for projection, path, fingerprint, body in self.store.bases()
        }
        self.linked = {}
        self._folders = {}
        for inode in self.inodes.values():
            self._index(inode)
        self._next = max([self._next, *(ino + 1 for ino in self.inodes)])

    def _mend(self) -> None:
        """Do without bodies that a power cut took, with what was written and never synced: content
        is the source's again, or nothing."""
        there = self.bodies.numbers()
        lost = [one for one in self.inodes.values() if one.body is not None]
        lost = [one for one in lost if one.body not in there]
        gone = {key: base for key, base in self.bases.items() if base.body is not None}
        gone = {key: base for key, base in gone.items() if base.body not in there}
        if not lost and not gone:
            return
        log.warning("the contents of %d staged files were lost before they were synced", len(lost))
        with self.transaction():
            for inode in lost:
                inode.body = None
                if inode.origin is None:
                    inode.body, fd = self.bodies.create()
                    os.close(fd)
                self.save(inode)
            for (projection, path), base in gone.items():
                self.put_base(projection, path, Base(base.fingerprint))

    def folder_from(self, projection: int, origin: bytes) -> StagedInode | None:
        """The staged folder that shows the source's folder at *origin*, wherever it stands now."""
        inode = self.inodes.get(self._folders.get((projection, origin), WHITEOUT))
        shows = inode is not None and inode.persistent and inode.origin == origin
        return inode if shows else None

    def _index(self, inode: StagedInode) -> None:
        if inode.is_folder and inode.origin is not None:
            self._folders[inode.projection, inode.origin] = inode.ino
        # What has several links can be met under another name of its source.
        if not inode.is_folder and inode.identity != (0, 0):
            self.linked[(inode.projection, *inode.identity)] = inode.ino

    def note_size(self, body: int) -> None:
        """Count a body for what it takes up now."""
        self.quota.note(body, self.bodies.stat(body))

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Group changes; see the module. Raises OSError when they cannot be stored."""
        if self._depth:
            yield
            return
        self._depth = 1
        try:
            with self.store.transaction():
                yield
        except BaseException:
            self._doomed.clear()
            for undo in reversed(self._undo):
                undo()
            self._load()
            raise
        finally:
            self._depth = 0
            self._undo.clear()
        doomed, self._doomed = self._doomed, []
        for body in doomed:
            self.quota.gone(body)
        self._departed += doomed

    def tidy(self) -> Callable[[], None] | None:
        """The job, for a worker thread, that removes the bodies which no row names any more; None
        if there are none.

        A power cut may bring back rows of before the last sync, and they must find their bodies:
        so the rows are made durable first.
        """
        if not self._departed:
            return None
        departed, self._departed = self._departed, []

        def job() -> None:
            try:
                self.store.sync()
            except OSError:
                return  # the next start sweeps them
            for body in departed:
                self.bodies.remove(body)

        return job

    def tidy_now(self) -> bool:
        """As `tidy`, done at once; False if there was nothing to remove."""
        job = self.tidy()
        if job is not None:
            job()
        return job is not None

    def on_failure(self, undo: Callable[[], None]) -> None:
        """Have *undo* called should the transaction under way fail: for what others remember
        beside the rows."""
        self._undo.append(undo)

    # -- inodes ----------------------------------------------------------------------------

    def fresh_ino(self) -> int:
        """A number for an object of the agent's; never handed out twice while we run."""
        ino, self._next = self._next, self._next + 1
        return ino

    def save(self, inode: StagedInode) -> None:
        """Write an inode as it now is; a new one becomes known."""
        self.inodes[inode.ino] = inode
        self._index(inode)
        if inode.persistent:
            self.store.put_inode(inode.row())

    def drop(self, ino: int, *, keep_body: bool = False) -> None:
        """Forget an inode; its body goes once the transaction is through."""
        inode = self.inodes.pop(ino)
        self.names -= len(inode.entries)
        for named in inode.entries.values():
            self._count(named, -1)
        self.linked.pop((inode.projection, *inode.identity), None)
        if inode.persistent:
            self.store.drop_inode(ino)
        if inode.body is not None and not keep_body:
            self._doomed.append(inode.body)

    def orphan(self, ino: int) -> None:
        """Turn an inode whose last name is gone into one that lives as long as it is open."""
        inode = self.inodes[ino]
        if inode.persistent:
            self.store.drop_inode(ino)
            self.on_failure(lambda: setattr(inode, "persistent", True))
        inode.persistent = False
        inode.nlink = 0
        self.linked.pop((inode.projection, *inode.identity), None)

    def discard_body(self, body: int) -> None:
        """Remove a body that nothing names, once the transaction is through."""
        self._doomed.append(body)

    def set_xattr(self, inode: StagedInode, name: bytes, value: bytes | None) -> None:
        """Stage an extended attribute, None for its removal."""
        inode.xattrs[name] = value
        if inode.persistent:
            self.store.put_xattr(inode.ino, name, value)

    def forget_xattr(self, inode: StagedInode, name: bytes) -> None:
        """Drop a staged extended attribute that covered nothing."""
        del inode.xattrs[name]
        if inode.persistent:
            self.store.drop_xattr(inode.ino, name)

    # -- names -----------------------------------------------------------------------------

    def set_entry(self, folder: StagedInode, name: bytes, ino: int) -> None:
        """Name an inode, or white a name out."""
        self.names += name not in folder.entries
        self._count(folder.entries.get(name, WHITEOUT), -1)
        self._count(ino, 1)
        folder.entries[name] = ino
        self.store.put_entry(folder.ino, name, ino)

    def drop_entry(self, folder: StagedInode, name: bytes) -> None:
        """Let the source's entry of this name, if any, show through again."""
        ino = folder.entries.pop(name, None)
        if ino is not None:
            self.names -= 1
            self._count(ino, -1)
            self.store.drop_entry(folder.ino, name)

    def _count(self, ino: int, names: int) -> None:
        if ino != WHITEOUT:
            self._named[ino] += names
            if not self._named[ino]:
                del self._named[ino]

    def is_named(self, ino: int) -> bool:
        """True if a staged entry names this inode."""
        return self._named[ino] > 0

    def top(self, projection: int) -> int | None:
        """Number of a projection's staged root, None where nothing is staged in it."""
        return self.tops.get(projection, {}).get(b"")

    def set_top(self, projection: int, ino: int) -> None:
        """Stage a projection's root."""
        self.tops.setdefault(projection, {})[b""] = ino
        self.store.put_entry(root_parent(projection), b"", ino)

    def drop_top(self, projection: int) -> None:
        """Nothing is staged in this projection any more."""
        if self.tops.get(projection, {}).pop(b"", None) is not None:
            self.store.drop_entry(root_parent(projection), b"")

    # -- bases -----------------------------------------------------------------------------

    def put_base(self, projection: int, path: bytes, base: Base) -> None:
        """Remember what a place of the source held; a base's earlier body goes."""
        old = self.bases.get((projection, path))
        if old is not None and old.body is not None and old.body != base.body:
            self._doomed.append(old.body)
        self.bases[(projection, path)] = base
        self.store.put_base(projection, path, base.fingerprint, base.body)

    def put_back(self, projection: int, path: bytes, before: Stat, now: Stat) -> None:
        """A commit that failed took *before* away from a place and put it back: it is the same
        version with another ctime."""
        base = self.bases.get((projection, path))
        if base is None or now.identity != before.identity:
            return
        old = base.fingerprint
        if (old.dev, old.ino, old.ctime_ns) == (before.dev, before.ino, before.ctime_ns):
            self.put_base(projection, path, Base(replace(old, ctime_ns=now.ctime_ns), base.body))

    def drop_base(self, projection: int, path: bytes) -> None:
        """Forget a base and its masked copy."""
        base = self.bases.pop((projection, path), None)
        if base is not None:
            self.store.drop_base(projection, path)
            if base.body is not None:
                self._doomed.append(base.body)
