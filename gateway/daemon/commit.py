"""Commit and discard: what was reviewed goes into the sources, group by group, or out of the stage.

Changes that need one another land together or not at all (`closure`); a group that cannot land
stays staged and is named with the reason. The agent keeps working: what it writes to a file while
that is being committed keeps the file staged.
"""

import hashlib
import hmac
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import trio

from gateway import clock
from gateway.audit.events import Event, show_name
from gateway.daemon import closure, kernel, landing
from gateway.daemon.apply import Metadata, MovedError, all_xattrs
from gateway.daemon.commits import Commit, CommitStore
from gateway.daemon.landing import Job, Landing
from gateway.daemon.review import Reviewed, Reviewer, Sides
from gateway.daemon.workspace import Workspace
from gateway.errors import ConflictError, RefusedError
from policies.engine import Query
from vfs import names
from vfs.gate import Access
from vfs.projection import Projection
from vfs.redaction import ScanError
from vfs.source import Source
from vfs.stage.changes import Change, Kind
from vfs.stage.settle import Settler, Snapshot, Touched
from vfs.stage.tree import StagedInode

Placeholders = Literal["ask", "restore", "keep"]

_REVIEWED_TOGETHER = 32


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
        self._shared: dict[tuple[int, int], tuple[tuple[str, bytes], ...]] = {}
        self.reviewer = Reviewer(workspace.fs, workspace.redactor, self._digest_key)

    # -- review ----------------------------------------------------------------------------

    def _projections(self) -> list[Projection]:
        return list(self._workspace.projections.values())

    def choose(self, wanted: Sequence[Sequence[bytes]]) -> list[Change]:
        """Changes at or below the named paths, all of them where none is named.

        Naming one side of a rename takes both. Raises NotFoundError for a path outside any grant.
        """
        return self._choose(self.reviewer.find(self._projections()), wanted)

    def _choose(self, changes: Sequence[Change], wanted: Sequence[Sequence[bytes]]) -> list[Change]:
        if not wanted:
            return list(changes)
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

    @staticmethod
    def _close_over(
        changes: Sequence[Change], chosen: Sequence[Change], *, discard: bool = False
    ) -> list[Change]:
        """The chosen changes with those that have to be taken along, projection by projection."""
        found: list[Change] = []
        for projection in {change.projection.id: change.projection for change in chosen}.values():
            found += closure.close_over(
                [change for change in changes if change.projection is projection],
                [change for change in chosen if change.projection is projection],
                discard=discard,
            )
        return found

    def _take(self, wanted: Sequence[Sequence[bytes]], *, discard: bool = False) -> list[Change]:
        """The changes that a commit or discard of *wanted* is about, each with an item of its own:
        what shows in a moved folder is spelled out first."""
        while True:
            changes = self.reviewer.find(self._projections())
            taken = self._close_over(changes, self._choose(changes, wanted), discard=discard)
            again = False
            for projection in {one.projection.id: one.projection for one in taken}.values():
                settler = self._settler(projection)
                with self._fs.tree.transaction():
                    again |= settler.spell_out([c for c in taken if c.projection is projection])
            if not again:
                return taken

    def _settler(self, projection: Projection) -> Settler:
        return Settler(self._fs.union, self._fs.files, projection)

    async def review(
        self,
        wanted: Sequence[Sequence[bytes]],
        keep: Callable[[Reviewed], None] = Reviewed.summarize,
    ) -> tuple[list[Reviewed], str]:
        """The chosen changes in masked form, and the digest of the whole set; *keep* is what is
        kept of each."""
        reviewed: list[Reviewed] = []
        changes = self.choose(wanted)
        # A few at a time: to change threads for each would cost more than the review, and each
        # holds descriptors.
        for start in range(0, len(changes), _REVIEWED_TOGETHER):
            part = changes[start : start + _REVIEWED_TOGETHER]
            reviewed += await self._review_some(part, keep)
        return reviewed, self.reviewer.set_digest(reviewed)

    async def _review_some(
        self, changes: Sequence[Change], keep: Callable[[Reviewed], None]
    ) -> list[Reviewed]:
        opened: list[Sides] = []

        def work() -> list[Reviewed]:
            found = []
            for sides in opened:
                found.append(self.reviewer.review(sides))
                keep(found[-1])
            return found

        try:
            for change in changes:
                opened.append(self.reviewer.open_sides(change))
            return await trio.to_thread.run_sync(work)
        finally:
            for sides in opened:
                sides.close()

    # -- commit ----------------------------------------------------------------------------

    def _check_grants(self, changes: Sequence[Change]) -> None:
        """Write grants and policy are asked again at commit (the stage outlives both), for every
        place that changes: the agent may have got there by way of another name."""
        gate = self._workspace.gate
        for change in changes:
            projection = change.projection
            if not gate.access(projection.id) & Access.WRITE:
                raise RefusedError(
                    f"{show_name(change.path)} has no live write grant any more: grant it again"
                    " to commit, or discard the change"
                )
            asked = []
            if change.item is not None:
                asked.append(("write", change.place))
            if (change.ends is not None and change.ends != change.place) or change.item is None:
                asked.append(("delete", change.old_place or b""))
            for action, place in asked:
                self._check_place(projection, action, place)

    def _check_place(self, projection: Projection, action: str, place: bytes) -> None:
        gate = self._workspace.gate
        host_path = projection.source.host_path(place)
        query = Query(
            action,  # type: ignore[arg-type]
            host_path,
            subject=gate.subject(projection.id),
        )
        decision = gate.engine.decide(query, granted=True)
        if decision.verdict != "deny" and not gate.hidden(projection.id, host_path):
            return
        path = show_name(projection.mount_path(place))
        raise RefusedError(
            f"policy refuses to commit {path} ({decision.rule}):"
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
            # Asked before and after folders are spelled out: a refusal changes nothing.
            self._check_grants(self.choose(wanted))
            changes = self._take(wanted)
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
        landed: list[Reviewed] = []  # without contents: all of a commit may be more than memory
        touched: list[Touched] = []
        projections = {change.projection.id: change.projection for change in changes}
        renewed = {number: self._settler(one).same_bases() for number, one in projections.items()}
        for number, projection in projections.items():
            mine = [change for change in changes if change.projection is projection]
            try:
                source = projection.source.for_commit()
            except OSError as error:
                self._all_failed(mine, outcome, error)
                continue
            try:
                self._shared = self._attributes_of_shared(projection, mine)
                for group in self._in_order(closure.groups(mine)):
                    found = await self._commit_group(source, group, placeholders, outcome, touched)
                    for one in found:
                        one.render()
                    landed += found
                    self._log_landed(commit_id, found)
                    self._renew(projection, renewed[number])
                emptied = self._emptied(projection, mine)
                await trio.to_thread.run_sync(landing.remove_emptied, source, emptied)
            finally:
                source.close()
                projection.source.look_again()
        left = await self._finish(touched)
        outcome.remaining = [show_name(change.path) for change in left]
        if not landed:
            return outcome
        outcome.commit = commit_id
        patch = b"".join(one.text for one in landed)
        files = [diff_json(one) for one in landed]
        record = Commit(commit_id, clock.now(), message, outcome.applied)
        self._workspace.commits.add(record, files, patch)
        result = log.submit_durable(
            Event.COMMIT,
            detail={
                "commit": commit_id, "phase": "done", "applied": len(outcome.applied),
                "conflicts": len(outcome.conflicts), "undecided": len(outcome.undecided),
                "remaining": len(outcome.remaining),
            },
        )  # fmt: skip
        await trio.to_thread.run_sync(result.result)
        return outcome

    @staticmethod
    def _attributes_of_shared(
        projection: Projection, changes: Sequence[Change]
    ) -> dict[tuple[int, int], tuple[tuple[str, bytes], ...]]:
        """Extended attributes of source files that several changes are about, before any of them
        lands: what one name gets shows at the others."""
        places: dict[tuple[int, int], list[bytes]] = {}
        for change in changes:
            if change.old is not None and stat.S_ISREG(change.old.mode) and change.old_place:
                places.setdefault((change.old.dev, change.old.ino), []).append(change.old_place)
        found = {}
        for identity, found_at in places.items():
            if len(found_at) > 1:
                try:
                    fd, status = projection.source.open_file(found_at[0])
                except OSError:
                    continue  # its commit will say why
                try:
                    if status.identity == identity:
                        found[identity] = all_xattrs(fd)
                finally:
                    os.close(fd)
        return found

    def _log_landed(self, commit_id: str, landed: Sequence[Reviewed]) -> None:
        for reviewed in landed:
            self._workspace.log.append(
                Event.COMMIT,
                path=reviewed.change.path,
                detail={
                    "commit": commit_id, "phase": "file", "kind": reviewed.change.kind.value,
                    "restored": reviewed.placeholders - reviewed.undecided,
                },
            )  # fmt: skip

    def _renew(self, projection: Projection, places: Sequence[bytes]) -> None:
        if places:
            with self._fs.tree.transaction():
                self._settler(projection).renew_bases(places)

    @staticmethod
    def _in_order(groups: list[list[Change]]) -> list[list[Change]]:
        """Folders that are to be written to are opened up first, those that are to be closed come
        last, the deepest first."""

        def turn(group: list[Change]) -> tuple[int, int]:
            change = group[0]
            if len(group) > 1 or change.kind is not Kind.MODE or not change.is_folder:
                return 1, 0
            opens = change.item is not None and change.item.mode & 0o300 == 0o300
            return (0, len(change.place)) if opens else (2, -len(change.place))

        return sorted(groups, key=turn)

    @staticmethod
    def _all_failed(changes: Sequence[Change], outcome: Outcome, error: Exception) -> None:
        why = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        outcome.failed += [{"path": show_name(change.path), "why": why} for change in changes]

    # -- one group -------------------------------------------------------------------------

    async def _commit_group(
        self,
        source: Source,
        group: list[Change],
        placeholders: Placeholders,
        outcome: Outcome,
        touched: list[Touched],
    ) -> list[Reviewed]:
        """Land one group; what it did, or why it did not, is noted in *outcome*."""
        parts: list[_Part] = []
        try:
            refused = False
            for change in group:
                part = await self._prepare(change, placeholders, outcome)
                if part is None:
                    refused = True
                    break
                parts.append(part)
            if refused:
                self._wait_for_others(group, outcome)
                return []
            return await self._land(source, parts, outcome, touched)
        finally:
            for part in parts:
                part.sides.close()

    @staticmethod
    def _wait_for_others(group: Sequence[Change], outcome: Outcome) -> None:
        """Name the rest of a group that one of it keeps from landing."""
        known = {one["path"] for one in (*outcome.conflicts, *outcome.failed)}
        known.update(str(waiting["path"]) for waiting in outcome.undecided)
        blocking = next(path for one in group if (path := show_name(one.path)) in known)
        for change in group:
            path = show_name(change.path)
            if path not in known:
                why = f"it goes together with {blocking}, which cannot land"
                outcome.conflicts.append({"path": path, "why": why})

    async def _prepare(
        self, change: Change, placeholders: Placeholders, outcome: Outcome
    ) -> "_Part | None":
        """Review one change and get ready what is to be written; None, noted, if it cannot land."""
        path = show_name(change.path)
        sides = self.reviewer.open_sides(change)
        keep = False
        try:
            inode = self._staged(change)
            before = Snapshot.of(inode) if inode is not None else None
            reviewed = await trio.to_thread.run_sync(self.reviewer.review, sides)
            if reviewed.conflict is not None:
                outcome.conflicts.append({"path": path, "why": reviewed.conflict})
                return None
            data = await self._final_bytes(sides, placeholders, outcome)
            if data is None:
                return None
            keep = True
            part = _Part(change, sides, reviewed, before, data)
            self._trim(part)
            return part
        except (OSError, ScanError) as error:
            self._all_failed([change], outcome, error)
            return None
        finally:
            if not keep:
                sides.close()

    @staticmethod
    def _trim(part: "_Part") -> None:
        """Close what the landing does not need: a group may be large."""
        sides = part.sides
        for side in (sides.old, sides.base if sides.base is not sides.source else None):
            if side is not None:
                side.close()
        if part.change.item is None and sides.source is not None:
            sides.source.close()
        if sides.new is not None and not sides.new.raw:
            sides.new.close()

    def _staged(self, change: Change) -> StagedInode | None:
        item = change.item
        return self._fs.tree.inodes.get(item.ino) if item is not None and item.ino else None

    async def _final_bytes(
        self, sides: Sides, placeholders: Placeholders, outcome: Outcome
    ) -> bytes | None:
        """The bytes that are to land, secrets put back; None if the user has to decide first."""
        new = sides.new
        if new is None or new.raw or not stat.S_ISREG(new.mode) or sides.change.kind is Kind.MODE:
            return b""
        staged = await trio.to_thread.run_sync(new.read)
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

    async def _land(
        self, source: Source, parts: "list[_Part]", outcome: Outcome, touched: list[Touched]
    ) -> list[Reviewed]:
        changes = [part.change for part in parts]
        for part in parts:
            inode = self._staged(part.change)
            if inode is not None and inode.writes != part.sides.writes:
                path = show_name(part.change.path)
                outcome.conflicts.append({"path": path, "why": "the agent is still writing to it"})
                self._wait_for_others(changes, outcome)
                return []
        try:
            jobs = self._jobs(parts)
            folders = self._folders(changes)
            await trio.to_thread.run_sync(Landing(source, jobs, folders).run)
        except MovedError as error:
            changes[0].projection.source.look_again()
            why = str(error)
            outcome.conflicts += [{"path": show_name(one.path), "why": why} for one in changes]
            return []
        except OSError as error:
            changes[0].projection.source.look_again()
            self._all_failed(changes, outcome, error)
            return []
        changes[0].projection.source.look_again()
        settler = self._settler(changes[0].projection)
        rebased = [self._rebase(part) for part in parts]
        with self._fs.tree.transaction():
            for part, rebase in zip(parts, rebased, strict=True):
                settler.landed(part.change, part.before, rebase)
        touched.append(settler.touched)
        outcome.applied += [show_name(change.path) for change in changes]
        return [part.reviewed for part in parts]

    def _rebase(self, part: "_Part") -> tuple[bytes, int] | None:
        """The new base of a file that the agent wrote to while it landed, else None."""
        inode = self._staged(part.change)
        if inode is None or inode.body is None or inode.writes == part.sides.writes:
            return None
        shown = part.reviewed.new.data if part.reviewed.new is not None else part.data
        body, fd = self._fs.bodies.create()
        with os.fdopen(fd, "wb") as file:
            file.write(shown)
        return hmac.new(self._digest_key, part.data, hashlib.sha256).digest(), body

    # -- what a group does to the source ---------------------------------------------------

    def _jobs(self, parts: "Sequence[_Part]") -> list[Job]:
        jobs = []
        by_ino: dict[int, bytes] = {}
        for part in sorted(parts, key=lambda one: one.change.kind is not Kind.RENAMED):
            job = self._job(part)
            number = part.change.item.ino if part.change.item is not None else None
            if number is not None and job.how in ("write", "copy", "move", "symlink"):
                if number in by_ino:
                    # Another name of one inode stays that.
                    job = Job(
                        "link", job.place, job.old_place, job.expected, link_to=by_ino[number]
                    )
                else:
                    by_ino[number] = job.place
            jobs.append(job)
        return jobs

    def _job(self, part: "_Part") -> Job:
        change, sides = part.change, part.sides
        item, old = change.item, sides.source
        expected = old.version if old is not None else None
        if item is None:
            return Job("delete", change.place, change.place, expected)
        inode = self._staged(change)
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
            settler = self._settler(change.projection)
            if item.origin != change.place and settler.shows(item.origin, item.ino):
                return Job("link", change.place, change.old_place, expected, link_to=item.origin)
        job = Job("write", change.place, change.old_place, expected, part.data)
        if stat.S_ISLNK(item.kind):
            job.how, job.data = "symlink", sides.new.read() if sides.new is not None else b""
            times = None
            if inode is not None and inode.mtime_ns is not None:
                times = (inode.atime_ns or inode.mtime_ns, inode.mtime_ns)
            job.metadata = Metadata(None, item.uid, item.gid, times)
            return job
        if not stat.S_ISREG(item.kind):
            raise OSError(95, "pipes, sockets and devices are not committed")
        job.metadata = self._metadata(part, inode)
        job.sparse = sides.new is not None and sides.new.sparse
        if not own and sides.new is not None:
            job.how, job.fd, job.version = "copy", sides.new.fd, sides.new.version
        return job

    @staticmethod
    def _moved(part: "_Part") -> Metadata:
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

    def _metadata(self, part: "_Part", inode: StagedInode | None) -> Metadata:
        """What a file that is written anew gets: what the mount shows, and from the file that it
        was made from, or replaces, what the mount does not show."""
        item, sides = part.change.item, part.sides
        assert item is not None
        times = None
        if inode is not None and inode.body is not None:
            body = self._fs.bodies.stat(inode.body)
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
        kept = self._shared.get((status.st_dev, status.st_ino), found.kept)
        return replace(found, kept=kept)

    def _folders(self, changes: Sequence[Change]) -> dict[bytes, Metadata]:
        """Folders of the agent's that the changes stand in: the source has to get them."""
        found: dict[bytes, Metadata] = {}
        settler = self._settler(changes[0].projection)
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

    def _emptied(self, projection: Projection, changes: Sequence[Change]) -> list[bytes]:
        """Source folders that something was taken from and that the mount does not show."""
        found = set()
        settler = self._settler(projection)
        for change in changes:
            place = change.ends
            while place and (place := place.rpartition(b"/")[0]):
                if place in found:
                    break
                if settler.is_gone(place):
                    found.add(place)
        return list(found)

    # -- discard ---------------------------------------------------------------------------

    async def discard(self, wanted: Sequence[Sequence[bytes]]) -> list[str]:
        """Drop the chosen staged changes; returns their paths."""
        async with self._lock:
            changes = self.choose(wanted) if not wanted else self._take(wanted, discard=True)
            touched: list[Touched] = []
            if wanted:
                projections = {change.projection.id: change.projection for change in changes}
            else:
                projections = {one.id: one for one in self._projections()}
            for projection in projections.values():
                settler = self._settler(projection)
                with self._fs.tree.transaction():
                    if wanted:
                        settler.discard([c for c in changes if c.projection is projection])
                    else:
                        settler.reset()
                touched.append(settler.touched)
            await self._finish(touched)
            for change in changes:
                self._workspace.log.append(
                    Event.DISCARD, path=change.path, detail={"kind": change.kind.value}
                )
            return [show_name(change.path) for change in changes]

    # -- both ------------------------------------------------------------------------------

    async def _finish(self, touched: list[Touched]) -> list[Change]:
        """Remove what is left over in the stage, and let the kernel look anew; returns the changes
        that are left."""
        self.reviewer.settled()
        left = self.reviewer.find(self._projections())
        for projection in self._projections():
            settler = self._settler(projection)
            with self._fs.tree.transaction():
                settler.prune([change for change in left if change.projection is projection])
            touched.append(settler.touched)
        self.reviewer.settled()
        mount = self._workspace.mount
        if mount is not None:
            entries = [entry for one in touched for entry in one.entries]
            numbers = {number for one in touched for number in one.numbers}
            await kernel.drop_nodes(mount, entries, sorted(numbers))
        return left


@dataclass(slots=True)
class _Part:
    """A change on its way to its source: reviewed, its bytes restored."""

    change: Change
    sides: Sides
    reviewed: Reviewed
    before: Snapshot | None
    data: bytes


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
