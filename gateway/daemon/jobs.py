"""From reviewed changes to the jobs that a commit has to do in their source.

On the core's task: what is said here of a change is taken from the stage as it is now.
"""

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from gateway.commit.batch import fill_from, fill_with
from gateway.commit.metadata import Metadata, all_xattrs
from gateway.commit.plan import Job
from gateway.daemon.review import Reviewed, Sides
from vfs.filesystem import Filesystem
from vfs.projection import Projection
from vfs.stage.changes import Change, Kind
from vfs.stage.settle import Settler, Snapshot
from vfs.stage.tree import StagedInode


class CannotLandError(Exception):
    """A change of a kind that is not committed."""


KeptXattrs = dict[tuple[int, int], tuple[tuple[str, bytes], ...]]


@dataclass(slots=True)
class Part:
    """A change on its way to its source: reviewed, its bytes restored. `before` is the staged
    inode when it was read; `partial` the masked content where only some hunks land, `digest` an
    HMAC of what lands then; `merged` that of a merge with the source's own changes; `overwrites` if
    the source's own changes go."""

    change: Change
    sides: Sides
    before: Snapshot | None
    reviewed: Reviewed | None = None
    data: bytes = b""
    partial: bytes | None = None
    digest: bytes = b""
    merged: bytes | None = None
    overwrites: bool = False


@dataclass(slots=True)
class JobMaker:
    """Makes the jobs of one projection. `shared` are extended attributes of source files that
    several changes are about: what one name gets shows at the others."""

    fs: Filesystem
    projection: Projection
    shared: KeptXattrs = field(default_factory=dict)

    def _settler(self) -> Settler:
        return Settler(self.fs.union, self.fs.files, self.projection)

    def staged(self, change: Change) -> StagedInode | None:
        """The staged inode of a change's new side."""
        item = change.item
        return self.fs.tree.inodes.get(item.ino) if item is not None and item.ino else None

    def note_shared(self, changes: Sequence[Change]) -> None:
        """Read `shared`, before any of the changes lands."""
        places: dict[tuple[int, int], list[bytes]] = {}
        for change in changes:
            if change.old is not None and stat.S_ISREG(change.old.mode) and change.old_place:
                places.setdefault((change.old.dev, change.old.ino), []).append(change.old_place)
        for identity, found_at in places.items():
            if len(found_at) > 1:
                try:
                    fd, status = self.projection.source.open_file(found_at[0])
                except OSError:
                    continue  # its commit will say why
                try:
                    if status.identity == identity:
                        self.shared[identity] = all_xattrs(fd)
                finally:
                    os.close(fd)

    def jobs(self, parts: Sequence[Part]) -> list[Job]:
        """What a group does. Raises CannotLandError, OSError."""
        jobs = []
        by_ino: dict[int, bytes] = {}
        for part in sorted(parts, key=lambda one: one.change.kind is not Kind.RENAMED):
            job = self._job(part)
            number = part.change.item.ino if part.change.item is not None else None
            if number is not None and job.how in ("write", "move", "symlink"):
                if number in by_ino:
                    # Another name of one inode stays that.
                    job = Job(
                        "link", job.place, job.old_place, job.expected, link_to=by_ino[number]
                    )
                else:
                    by_ino[number] = job.place
            jobs.append(job)
            if part.overwrites and job.how != "mode":
                jobs += self._out_of_the_way(job)
        return jobs

    def _out_of_the_way(self, job: Job) -> list[Job]:
        """What removes something of the source's that the agent never saw from a job's place."""
        if job.how == "delete" or job.old_place == job.place:
            return []
        try:
            there = self.projection.source.stat(job.place)
        except (FileNotFoundError, NotADirectoryError):
            return []
        if stat.S_ISDIR(there.mode):
            raise CannotLandError("a folder of the source is in its place")
        return [Job("delete", job.place, job.place, there)]

    def _job(self, part: Part) -> Job:
        change, sides = part.change, part.sides
        item, old = change.item, sides.source
        expected = old.version if old is not None else None
        if item is None:
            return Job("delete", change.place, change.place, expected)
        inode = self.staged(change)
        if change.kind is Kind.MODE:
            mode = None if stat.S_ISLNK(item.kind) else stat.S_IMODE(item.mode)
            metadata = Metadata(mode, item.uid, item.gid, xattrs=sides.xattrs)
            return Job("mode", change.place, change.place, expected, metadata=metadata)
        if stat.S_ISDIR(item.kind):
            return Job("folder", change.place)
        own = inode is not None and (inode.body is not None or inode.target is not None)
        if change.kind is Kind.RENAMED and not own:
            return Job("move", change.place, change.old_place, expected, metadata=self._moved(part))
        if not own and item.origin is not None and item.ino is not None:
            settler = self._settler()
            if item.origin != change.place and settler.shows(item.origin, item.ino):
                return Job("link", change.place, change.old_place, expected, link_to=item.origin)
        job = Job("write", change.place, change.old_place, expected)
        if stat.S_ISLNK(item.kind):
            job.how, job.target = "symlink", sides.new.read() if sides.new is not None else b""
            times = None
            if inode is not None and inode.mtime_ns is not None:
                times = (inode.atime_ns or inode.mtime_ns, inode.mtime_ns)
            job.metadata = Metadata(None, item.uid, item.gid, times)
            return job
        if not stat.S_ISREG(item.kind):
            raise CannotLandError("pipes, sockets and devices are not committed")
        job.metadata = self._metadata(part, inode)
        new = sides.new
        if (part.partial is not None or part.merged is not None) and not own:
            raise CannotLandError("it can only be taken whole")
        if not own and new is not None and new.version is not None:
            job.fill = fill_from(new.fd, new.version)
        else:
            job.fill = fill_with(part.data, sparse=new is not None and new.sparse)
        return job

    @staticmethod
    def _moved(part: Part) -> Metadata:
        """What a moved object gets besides: the mode and owner that the agent gave it."""
        item, version = part.change.item, part.sides.source.version if part.sides.source else None
        if item is None or version is None or stat.S_ISDIR(item.kind):
            return Metadata()
        mode = stat.S_IMODE(item.mode)
        return Metadata(
            None if mode == stat.S_IMODE(version.mode) or stat.S_ISLNK(item.kind) else mode,
            None if item.uid == version.uid else item.uid,
            None if item.gid == version.gid else item.gid,
            xattrs=part.sides.xattrs,
        )

    def _metadata(self, part: Part, inode: StagedInode | None) -> Metadata:
        """What a file that is written anew gets: what the mount shows, and from the file that it
        was made from, or replaces, what the mount does not show."""
        item, sides = part.change.item, part.sides
        assert item is not None
        times = None
        if inode is not None and inode.body is not None:
            body = self.fs.bodies.stat(inode.body)
            times = (body.st_atime_ns, body.st_mtime_ns)
        original = None
        if sides.new is not None and sides.new.raw:
            original = sides.new.fd
        elif sides.source is not None and sides.source.fd >= 0:
            original = sides.source.fd
        mode = stat.S_IMODE(item.mode)
        if original is None:
            return Metadata(mode, item.uid, item.gid, times, sides.xattrs)
        found = Metadata.of(original, mode, item.uid, item.gid, times, sides.xattrs)
        status = os.fstat(original)
        kept = self.shared.get((status.st_dev, status.st_ino), found.kept)
        return replace(found, kept=kept)

    def folders(self, changes: Sequence[Change]) -> dict[bytes, Metadata]:
        """Folders of the agent's that the changes stand in: the source has to get them."""
        found: dict[bytes, Metadata] = {}
        settler = self._settler()
        for change in changes:
            if change.item is None or change.kind is Kind.MODE:
                continue
            place = change.place if change.is_folder else change.place.rpartition(b"/")[0]
            while place and place not in found:
                folder = settler.folder_at(place)
                if folder is not None and folder.origin != place:
                    mode = 0o755 if folder.mode is None else folder.mode
                    found[place] = Metadata(mode, folder.uid, folder.gid)
                place = place.rpartition(b"/")[0]
        return found

    def emptied(self, changes: Sequence[Change]) -> list[bytes]:
        """Source folders that something is taken from and that the mount does not show."""
        found = set()
        settler = self._settler()
        for change in changes:
            place = change.ends
            while place and (place := place.rpartition(b"/")[0]):
                if place in found:
                    break
                if settler.is_gone(place):
                    found.add(place)
        return list(found)
