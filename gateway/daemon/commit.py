"""Commit and discard: what was reviewed goes into the sources, file by file, or out of the stage.

First form: each file lands whole by a temporary sibling and a rename, its base checked right
before; a file that cannot land stays staged and is named. The agent keeps working: what it writes
to a file while that is being committed keeps the file staged.
"""

import errno
import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal

import trio

from gateway import clock
from gateway.audit.events import Event, show_name
from gateway.daemon import apply, kernel
from gateway.daemon.commits import Commit, CommitStore
from gateway.daemon.review import Reviewed, Reviewer, Sides
from gateway.daemon.workspace import Workspace
from gateway.errors import ConflictError, RefusedError
from policies.engine import Query
from vfs import names
from vfs.gate import Access
from vfs.projection import Projection
from vfs.stage.changes import Change, Kind
from vfs.stage.settle import Settler, Touched
from vfs.stage.tree import StagedInode
from vfs.statx import stat_at

Placeholders = Literal["ask", "restore", "keep"]


@dataclass(slots=True)
class Outcome:
    """What a commit did; paths are relative to the mount's root."""

    commit: str | None = None
    applied: list[str] = field(default_factory=list)
    conflicts: list[dict[str, str]] = field(default_factory=list)
    undecided: list[dict[str, object]] = field(default_factory=list)
    remaining: list[str] = field(default_factory=list)
    failed: list[dict[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The object of `commit`."""
        found: dict[str, object] = {
            "commit": self.commit,
            "applied": self.applied,
            "conflicts": [one["path"] for one in self.conflicts],
            "undecided": [one["path"] for one in self.undecided],
            "remaining": self.remaining,
        }
        reasons = {one["path"]: one["why"] for one in (*self.conflicts, *self.failed)}
        reasons.update({str(one["path"]): str(one["why"]) for one in self.undecided})
        if reasons:
            found["reasons"] = reasons
        if self.failed:
            found["failed"] = [one["path"] for one in self.failed]
        return found


class Committer:
    """Commits and discards for one workspace, on the core's task; one at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._fs = workspace.fs
        self._lock = trio.Lock()
        self._digest_key = workspace.keys.derive("digest")
        self.reviewer = Reviewer(workspace.fs, workspace.redactor, self._digest_key)

    # -- review ----------------------------------------------------------------------------

    def _projections(self) -> list[Projection]:
        return list(self._workspace.projections.values())

    def choose(self, wanted: Sequence[Sequence[bytes]]) -> list[Change]:
        """Changes at or below the named paths, all of them where none is named.

        Naming one side of a rename takes both. Raises NotFoundError for a path outside any grant.
        """
        changes = self.reviewer.find(self._projections())
        if not wanted:
            return changes
        places = [self._workspace.resolve(candidates) for candidates in wanted]
        return [
            change
            for change in changes
            if any(
                change.projection is projection
                and (
                    names.within(change.place, place)
                    or (change.old_place is not None and names.within(change.old_place, place))
                )
                for projection, place in places
            )
        ]

    async def review(self, wanted: Sequence[Sequence[bytes]]) -> tuple[list[Reviewed], str]:
        """The chosen changes in masked form, and the digest of the whole set."""
        reviewed = []
        for change in self.choose(wanted):
            sides = self.reviewer.open_sides(change)
            self._check_new_name(sides)
            try:
                reviewed.append(await trio.to_thread.run_sync(self.reviewer.review, sides))
            finally:
                sides.close()
        return reviewed, self.reviewer.set_digest(reviewed)

    def _check_new_name(self, sides: Sides) -> None:
        """Note a conflict where the source has got something at a change's new name."""
        change = sides.change
        new_name = change.old_place is None or change.old_place != change.place
        if new_name and not change.is_folder and change.projection.source.exists(change.place):
            base = (change.projection.id, change.place)
            if base not in self._fs.tree.bases:
                sides.conflict = "the source has something there now"

    # -- commit ----------------------------------------------------------------------------

    def _check_grants(self, changes: Sequence[Change]) -> None:
        """Write grants and policy are asked again at commit (the stage outlives both)."""
        gate = self._workspace.gate
        for change in changes:
            if not gate.access(change.projection.id) & Access.WRITE:
                raise RefusedError(
                    f"{show_name(change.path)} has no live write grant any more: grant it again"
                    " to commit, or discard the change"
                )
            action = "delete" if change.kind is Kind.DELETED else "write"
            host_path = change.projection.source.host_path(change.place)
            query = Query(action, host_path)  # type: ignore[arg-type]
            decision = gate.engine.decide(query, granted=True)
            if decision.verdict == "deny":
                raise RefusedError(
                    f"policy refuses to commit {show_name(change.path)} ({decision.rule}):"
                    f" {decision.reason or 'no reason is given'}"
                )

    async def commit(
        self,
        wanted: Sequence[Sequence[bytes]],
        *,
        message: str,
        digest: str | None,
        placeholders: Placeholders,
    ) -> Outcome:
        """Put the chosen changes into their sources.

        Raises RefusedError, and ConflictError if *digest* is not that of the stage as it is.
        """
        async with self._lock:
            if digest is not None:
                _all, now = await self.review(())
                if now != digest:
                    raise ConflictError(
                        "the stage has moved on since it was reviewed: look at"
                        " `grantfs status` again"
                    )
            changes = self.choose(wanted)
            self._check_grants(changes)
            return await self._commit(changes, message, placeholders)

    async def _commit(
        self, changes: Sequence[Change], message: str, placeholders: Placeholders
    ) -> Outcome:
        outcome = Outcome()
        log = self._workspace.log
        commit_id = CommitStore.new_id()
        if changes:
            intent = log.submit_durable(
                Event.COMMIT,
                detail={"commit": commit_id, "phase": "intent", "changes": len(changes)},
            )
            await trio.to_thread.run_sync(intent.result)
        landed: list[Reviewed] = []
        touched: list[Touched] = []
        # New and changed files first, deletions last and deepest first: at no moment is a moved
        # file in neither place, and folders are empty when their turn comes.
        ordered = [c for c in changes if c.kind is not Kind.DELETED]
        ordered += sorted(
            (c for c in changes if c.kind is Kind.DELETED), key=lambda c: c.place, reverse=True
        )
        pinned = self._pin_origins(ordered)
        for change in ordered:
            reviewed = await self._commit_one(change, placeholders, outcome, touched, pinned)
            if reviewed is not None:
                landed.append(reviewed)
                log.append(
                    Event.COMMIT,
                    path=change.path,
                    detail={
                        "commit": commit_id, "phase": "file", "kind": change.kind.value,
                        "restored": reviewed.placeholders - reviewed.undecided,
                    },
                )  # fmt: skip
        for sides in pinned.values():
            sides.close()
        self._remove_emptied(changes)
        await self._finish(touched, {change.projection.id: change.projection for change in changes})
        done = set(outcome.applied)
        left = self.reviewer.find(self._projections())
        outcome.remaining = [show_name(change.path) for change in left]
        if not done:
            return outcome
        outcome.commit = commit_id
        patch = b"".join(one.patch() for one in landed)
        files = [diff_json(one) for one in landed]
        record = Commit(commit_id, clock.now(), message, outcome.applied)
        self._workspace.commits.add(record, files, patch)
        result = log.submit_durable(
            Event.COMMIT,
            detail={
                "commit": commit_id, "phase": "done", "applied": len(done),
                "conflicts": len(outcome.conflicts), "undecided": len(outcome.undecided),
                "remaining": len(outcome.remaining),
            },
        )  # fmt: skip
        await trio.to_thread.run_sync(result.result)
        return outcome

    def _pin_origins(self, changes: Sequence[Change]) -> dict[bytes, Sides]:
        """Open, before anything is written, what comes from places that this very commit may
        write to: of two files that were exchanged, each is the other's content."""
        pinned = {}
        for change in changes:
            inode = self._staged(change)
            own = inode is not None and (inode.body is not None or inode.target is not None)
            item = change.item
            if (
                item is not None
                and not own
                and item.origin not in (None, change.place)
                and change.kind is not Kind.RENAMED
                and stat.S_ISREG(item.kind)
            ):
                pinned[change.path] = self.reviewer.open_sides(change)
        return pinned

    def _remove_emptied(self, changes: Sequence[Change]) -> None:
        """Remove source folders that the agent deleted or moved away, once they are empty."""
        folders = set()
        for change in changes:
            place = change.old_place
            while place and (place := place.rpartition(b"/")[0]):
                folders.add((change.projection.id, place))
        for number, place in sorted(folders, key=lambda found: len(found[1]), reverse=True):
            projection = self._workspace.projections[number]
            settler = Settler(self._fs.union, self._fs.files, projection)
            if not settler.is_gone(place) or not projection.source.exists(place):
                continue
            folder, name = projection.source.place(place)
            try:
                # What is not empty holds something that the agent never saw, or the user added.
                with suppress(OSError):
                    os.rmdir(name, dir_fd=folder)
            finally:
                os.close(folder)

    async def _commit_one(
        self,
        change: Change,
        placeholders: Placeholders,
        outcome: Outcome,
        touched: list[Touched],
        pinned: dict[bytes, Sides],
    ) -> Reviewed | None:
        path = show_name(change.path)
        try:
            sides = pinned.get(change.path) or self.reviewer.open_sides(change)
        except OSError as error:
            outcome.failed.append({"path": path, "why": error.strerror or str(error)})
            return None
        try:
            self._check_new_name(sides)
            reviewed = await trio.to_thread.run_sync(self.reviewer.review, sides)
            if reviewed.conflict is not None:
                outcome.conflicts.append({"path": path, "why": reviewed.conflict})
                return None
            data = await self._final_bytes(sides, placeholders, outcome)
            if data is None:
                return None
            inode = self._staged(change)
            if inode is not None and inode.writes != sides.writes:
                outcome.conflicts.append({"path": path, "why": "the agent is still writing to it"})
                return None
            touched.append(await self._land(change, sides, data))
        except apply.MovedError as error:
            outcome.conflicts.append({"path": path, "why": str(error)})
            return None
        except OSError as error:
            outcome.failed.append({"path": path, "why": error.strerror or str(error)})
            return None
        finally:
            sides.close()
        outcome.applied.append(path)
        return reviewed

    def _staged(self, change: Change) -> StagedInode | None:
        item = change.item
        return self._fs.tree.inodes.get(item.ino) if item is not None and item.ino else None

    async def _final_bytes(
        self, sides: Sides, placeholders: Placeholders, outcome: Outcome
    ) -> bytes | None:
        """The bytes that are to land, secrets put back; None if the user has to decide first."""
        new = sides.new
        if new is None or new.raw or not stat.S_ISREG(new.mode):
            return b""
        staged = await trio.to_thread.run_sync(new.read)
        if sides.profile == "none":
            return staged
        result = await trio.to_thread.run_sync(
            self.reviewer.restoration, sides, staged, placeholders
        )
        if result.undecided:
            why = ", ".join(sorted({one.why for one in result.undecided}))
            outcome.undecided.append(
                {
                    "path": show_name(sides.change.path),
                    "why": f"{len(result.undecided)} placeholder(s) {why}",
                }
            )
            return None
        return result.data

    async def _land(self, change: Change, sides: Sides, data: bytes) -> Touched:
        projection = change.projection
        settler = Settler(self._fs.union, self._fs.files, projection)
        if change.item is not None and change.kind is not Kind.MODE:
            await self._make_parents(change, settler)
        folders: list[int] = []
        try:
            job = self._writing(change, sides, data, folders)

            def write_and_sync() -> None:
                job()
                for folder in folders:
                    apply.sync_folder(folder)

            await trio.to_thread.run_sync(write_and_sync)
        finally:
            for folder in folders:
                os.close(folder)
        inode = self._staged(change)
        with self._fs.tree.transaction():
            if change.item is None:
                self._settle_deletion(change, settler)
            elif inode is not None and inode.writes != sides.writes and sides.new is not None:
                digest = hmac.new(self._digest_key, data, hashlib.sha256).digest()
                settler.rebased(change, digest, sides.new.read())
            else:
                settler.landed(change, change.item)
        return settler.touched

    def _settle_deletion(self, change: Change, settler: Settler) -> None:
        assert change.old_place is not None
        self._fs.tree.drop_base(change.projection.id, change.old_place)

    async def _make_parents(self, change: Change, settler: Settler) -> None:
        """Make the folders above a new place that the source has not got, and let each show."""
        place = b""
        parts = change.place.split(b"/")
        above = parts if change.is_folder else parts[:-1]
        for name in above:
            place = names.join(place, name)
            folder = settler.folder_at(place)
            if folder is None or folder.origin == place:
                continue
            mode = 0o755
            if folder.mode is not None:
                mode = folder.mode
            elif folder.origin is not None:
                mode = stat.S_IMODE(change.projection.source.stat(folder.origin).mode)
            parent, own_name = change.projection.source.place(place)
            try:
                apply.make_folder(parent, own_name, mode)
                apply.sync_folder(parent)
            finally:
                os.close(parent)
            with self._fs.tree.transaction():
                settler.rehome(place)

    def _writing(
        self, change: Change, sides: Sides, data: bytes, folders: list[int]
    ) -> Callable[[], None]:
        """The job, for a worker thread, that puts one change into its source. What it needs of
        the core is taken here; the folders that it works in are added to *folders*."""
        source = change.projection.source
        item, kind = change.item, change.kind
        if item is not None and change.is_folder and kind is not Kind.MODE:
            return lambda: None  # the folder itself was made with its parents
        folder, name = source.place(change.place)
        folders.append(folder)
        if item is None:
            gone = source.stat(change.place)
            return lambda: apply.remove(folder, name, gone)
        inode = self._staged(change)
        if kind is Kind.MODE:
            assert inode is not None
            now = source.stat(change.place)
            mode = inode.mode if inode.mode is not None else now.mode
            owner = (inode.uid, inode.gid)
            return lambda: apply.set_attributes(folder, name, mode, owner, now)
        if kind is Kind.RENAMED:
            return self._renaming(change, sides, data, folder, name, folders)
        return self._placing(change, sides, data, folder, name)

    def _placing(
        self, change: Change, sides: Sides, data: bytes, folder: int, name: bytes
    ) -> Callable[[], None]:
        """The job that writes the new side at its place."""
        item = change.item
        assert item is not None
        source = change.projection.source
        if stat.S_ISLNK(item.kind):
            target = sides.new.read() if sides.new is not None else b""
            replaced = source.stat(change.place) if change.old_place == change.place else None
            return lambda: apply.write_symlink(folder, name, target, replaced)
        if stat.S_ISREG(item.kind):
            return self._writing_regular(change, sides, data, folder, name)
        raise OSError(errno.EOPNOTSUPP, "pipes and sockets are not committed")

    def _renaming(
        self,
        change: Change,
        sides: Sides,
        data: bytes,
        folder: int,
        name: bytes,
        folders: list[int],
    ) -> Callable[[], None]:
        """The job that moves a file, or writes it anew at its new name and removes the old."""
        source = change.projection.source
        inode = self._staged(change)
        assert change.old_place is not None
        old_folder, old_name = source.place(change.old_place)
        folders.append(old_folder)
        old_version = source.stat(change.old_place)
        if inode is not None and (inode.body is not None or inode.target is not None):
            place = self._placing(change, sides, data, folder, name)

            def write_then_remove() -> None:
                place()
                apply.remove(old_folder, old_name, old_version)

            return write_then_remove
        mode = None if inode is None else inode.mode
        if change.old is not None and mode == stat.S_IMODE(change.old.mode):
            mode = None

        def move() -> None:
            apply.move(old_folder, old_name, folder, name, old_version)
            if mode is not None:
                moved = stat_at(folder, name)
                apply.set_attributes(folder, name, mode, (None, None), moved)

        return move

    def _writing_regular(
        self, change: Change, sides: Sides, data: bytes, folder: int, name: bytes
    ) -> Callable[[], None]:
        inode = self._staged(change)
        old = change.old if change.old is not None and stat.S_ISREG(change.old.mode) else None
        base = sides.base
        mode = inode.mode if inode is not None else stat.S_IMODE(sides.new.mode if sides.new else 0)
        if old is not None and base is not None and mode == stat.S_IMODE(old.mode):
            mode = None  # as the original's is now, which is copied
        owner = None
        if inode is not None and (old is None or (inode.uid, inode.gid) != (old.uid, old.gid)):
            owner = (-1 if inode.uid is None else inode.uid, -1 if inode.gid is None else inode.gid)
        times = None
        if inode is not None and inode.body is not None:
            body = self._fs.bodies.stat(inode.body)
            times = (body.st_atime_ns, body.st_mtime_ns)
        new = sides.new
        replaces = change.old_place == change.place
        return lambda: apply.write_file(
            folder,
            name,
            new.read() if new is not None and new.raw else data,
            mode=mode,
            owner=owner,
            times_ns=times,
            xattrs=inode.xattrs if inode is not None else {},
            expected=base.version if base is not None and replaces else None,
            original=base.fd if base is not None else None,
        )

    # -- discard ---------------------------------------------------------------------------

    async def discard(self, wanted: Sequence[Sequence[bytes]]) -> list[str]:
        """Drop the chosen staged changes; returns their paths."""
        async with self._lock:
            changes = self.choose(wanted)
            everything = not wanted
            touched: list[Touched] = []
            projections = {change.projection.id: change.projection for change in changes}
            if everything:
                for projection in self._projections():
                    settler = Settler(self._fs.union, self._fs.files, projection)
                    with self._fs.tree.transaction():
                        settler.reset()
                    touched.append(settler.touched)
            else:
                for change in changes:
                    settler = Settler(self._fs.union, self._fs.files, change.projection)
                    with self._fs.tree.transaction():
                        settler.discard(change)
                    touched.append(settler.touched)
            await self._finish(touched, projections)
            for change in changes:
                self._workspace.log.append(
                    Event.DISCARD, path=change.path, detail={"kind": change.kind.value}
                )
            return [show_name(change.path) for change in changes]

    # -- both ------------------------------------------------------------------------------

    async def _finish(self, touched: list[Touched], projections: dict[int, Projection]) -> None:
        """Remove what is left over in the stage, and let the kernel look anew."""
        for projection in projections.values():
            settler = Settler(self._fs.union, self._fs.files, projection)
            with self._fs.tree.transaction():
                settler.prune()
            touched.append(settler.touched)
        mount = self._workspace.mount
        if mount is not None:
            entries = [entry for one in touched for entry in one.entries]
            numbers = {number for one in touched for number in one.numbers}
            await kernel.drop_nodes(mount, entries, sorted(numbers))


def diff_json(reviewed: Reviewed) -> dict[str, Any]:
    """The object of `diff` and `show`."""
    origin = reviewed.change.from_path
    return {
        "path": reviewed.path,
        "kind": reviewed.change.kind.value,
        "from": None if origin is None else show_name(origin),
        "binary": reviewed.binary,
        "hunks": [
            {
                "id": hunk.id,
                "header": hunk.header if isinstance(hunk.header, str) else hunk.header.decode(),
                "lines": [line.decode("utf-8", "backslashreplace") for line in hunk.lines],
            }
            for hunk in reviewed.hunks
        ],
    }
