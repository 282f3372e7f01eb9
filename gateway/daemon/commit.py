"""Commit and discard: what was reviewed goes into the sources, group by group, or out of the stage.

Changes that need one another land together or not at all (`closure`); a group that cannot land
stays staged and is named with the reason. The agent keeps working: what it writes to a file while
that is being committed keeps the file staged.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

import trio

from gateway import clock
from gateway.audit.events import Event, show_name
from gateway.commit import closure
from gateway.commit.history import Commit, CommitStore
from gateway.daemon import kernel
from gateway.daemon.outcome import OnConflict, Outcome, Placeholders
from gateway.daemon.review import Reviewed, Reviewer, Sides
from gateway.daemon.transaction import (
    STAGE_MOVED,
    FailedError,
    MovedGroupError,
    Terms,
    Transaction,
)
from gateway.daemon.undo import Undoing
from gateway.daemon.workspace import Workspace
from gateway.errors import ConflictError, GrantfsError, RefusedError
from gateway.review.hunks import Hunk, HunkMismatchError, apply_hunks
from gateway.review.ignored import MAX_BYTES, IgnoreRules
from gateway.review.picks import Picks, find
from policies.engine import Query
from vfs import names
from vfs.gate import Access
from vfs.projection import Projection
from vfs.stage.changes import Change
from vfs.stage.settle import Settler, Touched

_REVIEWED_TOGETHER = 32

T = TypeVar("T")


class Committer:
    """Commits and discards for one workspace, on the core's task; one at a time."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._fs = workspace.fs
        self._lock = trio.Lock()
        digest_key = workspace.keys.derive("digest")
        self.reviewer = Reviewer(workspace.fs, workspace.redactor, digest_key)

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

    def _take(
        self,
        wanted: Sequence[Sequence[bytes]],
        *,
        discard: bool = False,
        everything: bool = False,
    ) -> list[Change]:
        """The changes that a commit or discard of *wanted* is about, each with an item of its own:
        what shows in a moved folder is spelled out first. Where none is named, a commit leaves
        build output alone, unless it is to be *everything*."""
        while True:
            changes = self.reviewer.find(self._projections())
            chosen = self._choose(changes, wanted)
            if not wanted and not discard and not everything:
                left_out = self.left_out(chosen)
                chosen = [change for change in chosen if change.path not in left_out]
            taken = self._close_over(changes, chosen, discard=discard)
            again = False
            for projection in {one.projection.id: one.projection for one in taken}.values():
                settler = self._settler(projection)
                with self._fs.tree.transaction():
                    again |= settler.spell_out([c for c in taken if c.projection is projection])
            if not again:
                return taken

    def left_out(self, changes: Sequence[Change]) -> dict[bytes, bytes]:
        """Of changes in build output and dependency trees, the tree: paths in the mount."""
        found = {}
        rules: dict[int, IgnoreRules] = {}
        for change in changes:
            projection = change.projection
            if projection.id not in rules:
                settler = self._settler(projection)

                def read(folder: bytes, settler: Settler = settler) -> bytes | None:
                    return settler.shown_file(names.join(folder, b".gitignore"), MAX_BYTES)

                rules[projection.id] = IgnoreRules(read)
            tree = rules[projection.id].tree(change.place)
            if tree is not None:
                found[change.path] = projection.mount_path(tree)
        return found

    def _settler(self, projection: Projection) -> Settler:
        return Settler(self._fs.union, self._fs.files, projection)

    async def review(
        self,
        wanted: Sequence[Sequence[bytes]],
        keep: Callable[[Reviewed], None] = Reviewed.summarize,
        tell: Callable[[list[Reviewed]], Awaitable[None]] | None = None,
    ) -> tuple[list[Reviewed], str]:
        """The chosen changes in masked form, and the digest of the whole set; *keep* is what is
        kept of each, *tell* gets them part by part as they are reviewed."""
        reviewed: list[Reviewed] = []
        changes = self.choose(wanted)

        def review(sides: Sides) -> Reviewed:
            found = self.reviewer.review(sides)
            keep(found)
            return found

        # A few at a time: to change threads for each would cost more than the review, and each
        # holds descriptors.
        for start in range(0, len(changes), _REVIEWED_TOGETHER):
            part = changes[start : start + _REVIEWED_TOGETHER]
            some = await self._with_sides(part, review)
            reviewed += some
            if tell is not None:
                await tell(some)
        return reviewed, self.reviewer.set_digest(reviewed)

    async def _with_sides(self, changes: Sequence[Change], work: Callable[[Sides], T]) -> list[T]:
        """Do *work* on the opened sides of each change, in a worker thread."""
        opened: list[Sides] = []
        try:
            for change in changes:
                opened.append(self.reviewer.open_sides(change))
            return await trio.to_thread.run_sync(lambda: [work(sides) for sides in opened])
        finally:
            for sides in opened:
                sides.close()

    async def export(self, wanted: Sequence[Sequence[bytes]]) -> AsyncIterator[bytes]:
        """The chosen changes as a tar in masked form (see `archive`), a piece for each, without
        what ends a tar. Raises OSError, ScanError, GrantfsError where one cannot be shown."""
        for change in self.choose(wanted):
            for packed in await self._with_sides([change], self.reviewer.pack):
                yield packed

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
        chosen: Sequence[str] = (),
        edited: Sequence[tuple[bytes, Hunk]] = (),
        also: Sequence[Sequence[bytes]] = (),
        everything: bool = False,
        on_conflict: OnConflict = "refuse",
        without_undo: bool = False,
    ) -> Outcome:
        """Put the chosen changes into their sources; only the hunks with the ids *chosen*, and
        those *edited*, by path, if there are any, and all of the paths in *also*.

        Raises RefusedError, and ConflictError if *digest* is not that of the stage as it is.
        """
        async with self._lock:
            self._recover()
            digests = None
            if digest is not None:
                reviewed, now = await self.review(())
                if now != digest:
                    raise ConflictError(STAGE_MOVED)
                digests = {one.change.path: one.digest for one in reviewed}
            picks = await self._find_picks(wanted, chosen, edited)
            if picks:
                wanted = [*([path] for path in picks), *also]
            # Asked before and after folders are spelled out: a refusal changes nothing.
            self._check_grants(self.choose(wanted))
            changes = self._take(wanted, everything=everything)
            if digests is not None:
                _check_reviewed(changes, digests)
            self._check_grants(changes)
            terms = Terms(placeholders, on_conflict, without_undo, digests, picks)
            return await self._commit(changes, message, terms)

    async def _find_picks(
        self,
        wanted: Sequence[Sequence[bytes]],
        chosen: Sequence[str],
        edited: Sequence[tuple[bytes, Hunk]] = (),
    ) -> dict[bytes, Picks]:
        """Hunks by path. Raises ConflictError for one that is not there."""
        found: dict[bytes, Picks] = {}
        if chosen:
            files = await self._hunks(wanted)
            try:
                by_path = find(
                    chosen, [(path, some) for path, (some, _old, _writes) in files.items()]
                )
            except HunkMismatchError as error:
                raise ConflictError(f"{error}: look at `grantfs diff` again") from error
            found = {path: Picks(ids) for path, ids in by_path.items()}
        for path, hunk in edited:
            known = found.get(path, Picks(frozenset()))
            found[path] = Picks(known.ids, (*known.edited, hunk))
        return found

    async def _hunks(
        self, wanted: Sequence[Sequence[bytes]]
    ) -> dict[bytes, tuple[Sequence[Hunk], bytes, int]]:
        """Hunks, old side and count of writes of the chosen changes, by path."""
        found: dict[bytes, tuple[Sequence[Hunk], bytes, int]] = {}

        def keep(reviewed: Reviewed) -> None:
            old = reviewed.old.data if reviewed.old is not None else b""
            if reviewed.hunks and reviewed.new is not None:
                found[reviewed.change.path] = list(reviewed.hunks), old, reviewed.writes
            reviewed.summarize()

        await self.review(wanted, keep)
        return found

    def _recover(self) -> None:
        """What an earlier commit left undone comes first. Raises GrantfsError if it has to wait."""
        if self._workspace.commits.pending():
            self._workspace.recover_commits()
            for warning in self._workspace.unfinished:
                raise GrantfsError(f"an earlier commit is to be finished first: {warning}")

    async def _commit(self, changes: Sequence[Change], message: str, terms: Terms) -> Outcome:
        outcome = Outcome()
        log = self._workspace.log
        record = Commit(CommitStore.new_id(), clock.now(), message, [])
        if changes:
            intent = log.submit_durable(
                Event.COMMIT,
                detail={"commit": record.id, "phase": "intent", "changes": len(changes)},
            )
            await trio.to_thread.run_sync(intent.result)
        landed: list[Reviewed] = []
        left = list(changes)
        while left:
            attempt = Transaction(self._workspace, self.reviewer, record, terms, self._prune)
            try:
                landed = await attempt.run(left)
            except MovedGroupError as error:
                # Nothing has landed: the rest is tried without that group.
                moved = {id(change) for change in error.changes}
                refused = {id(change) for change in attempt.refused}
                outcome.add(attempt.outcome)
                outcome.conflicts += [
                    {"path": show_name(change.path), "why": str(error)} for change in error.changes
                ]
                left = [one for one in left if id(one) not in moved | refused]
                continue
            except FailedError as error:
                outcome.failed += [
                    {"path": show_name(change.path), "why": f"{error}; nothing was committed"}
                    for change in error.changes
                ]
                break
            outcome.add(attempt.outcome)
            await self._tell_kernel(attempt.touched)
            break
        if not landed:
            # What makes no difference goes all the same.
            with self._fs.tree.transaction():
                pruned = self._prune()
            await self._tell_kernel(pruned)
        self._log_landed(record.id, landed, outcome)
        self.reviewer.settled()
        remaining = self.reviewer.find(self._projections())
        outcome.remaining = [show_name(change.path) for change in remaining]
        if not landed:
            return outcome
        outcome.commit = record.id
        result = log.submit_durable(
            Event.COMMIT,
            detail={
                "commit": record.id, "phase": "done", "applied": len(outcome.applied),
                "conflicts": len(outcome.conflicts), "undecided": len(outcome.undecided),
                "remaining": len(outcome.remaining),
            },
        )  # fmt: skip
        await trio.to_thread.run_sync(result.result)
        return outcome

    def _log_landed(self, commit_id: str, landed: Sequence[Reviewed], outcome: Outcome) -> None:
        for reviewed in landed:
            self._workspace.log.append(
                Event.COMMIT,
                path=reviewed.change.path,
                detail={
                    "commit": commit_id, "phase": "file", "kind": reviewed.change.kind.value,
                    "restored": reviewed.placeholders - reviewed.undecided,
                    "merged": reviewed.path in outcome.merged,
                    "overwritten": reviewed.path in outcome.overwritten,
                },
            )  # fmt: skip

    # -- discard ---------------------------------------------------------------------------

    async def discard(
        self, wanted: Sequence[Sequence[bytes]], chosen: Sequence[str] = ()
    ) -> list[str]:
        """Drop the chosen staged changes, or the hunks with the ids *chosen*; returns their paths.
        Raises ConflictError for hunks that are not there."""
        async with self._lock:
            if chosen:
                return await self._discard_hunks(wanted, chosen)
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
            with self._fs.tree.transaction():
                pruned = self._prune()
            await self._tell_kernel([*touched, *pruned])
            for change in changes:
                self._workspace.log.append(
                    Event.DISCARD, path=change.path, detail={"kind": change.kind.value}
                )
            return [show_name(change.path) for change in changes]

    # -- both ------------------------------------------------------------------------------

    async def _discard_hunks(
        self, wanted: Sequence[Sequence[bytes]], chosen: Sequence[str]
    ) -> list[str]:
        picks = await self._find_picks(wanted, chosen)
        files = await self._hunks([[path] for path in picks])
        touched: list[Touched] = []
        changes = [one for one in self.choose([[path] for path in picks]) if one.path in picks]
        with self._fs.tree.transaction():
            for change in changes:
                found, old, writes = files[change.path]
                try:
                    left = apply_hunks(old, picks[change.path].left(found, change.path))
                except HunkMismatchError as error:
                    raise ConflictError(f"{error}: look at `grantfs diff` again") from error
                settler = self._settler(change.projection)
                if not settler.rewrite(change, left, writes):
                    raise ConflictError(
                        f"{show_name(change.path)} cannot be discarded in part: the agent is still"
                        " writing to it, or has only moved it"
                    )
                touched.append(settler.touched)
            touched += self._prune()
        await self._tell_kernel(touched)
        for change in changes:
            self._workspace.log.append(
                Event.DISCARD,
                path=change.path,
                detail={"kind": change.kind.value, "hunks": len(picks[change.path].ids)},
            )
        return [show_name(change.path) for change in changes]

    # -- undo ------------------------------------------------------------------------------

    async def undo(self, prefix: str | None) -> dict[str, object]:
        """Take a commit back out of the sources (see `Undoing`). Raises GrantfsError."""
        async with self._lock:
            self._recover()
            outcome, touched = await Undoing(self._workspace, prefix).run()
            await self._tell_kernel([touched])
            self.reviewer.settled()
            return outcome

    def _prune(self) -> list[Touched]:
        """Remove what is left over in the stage; returns what the kernel must look at anew. In a
        transaction of the caller's."""
        self.reviewer.settled()
        left = self.reviewer.find(self._projections())
        touched = []
        for projection in self._projections():
            settler = self._settler(projection)
            settler.prune([change for change in left if change.projection is projection])
            touched.append(settler.touched)
        self.reviewer.settled()
        return touched

    async def _tell_kernel(self, touched: Sequence[Touched]) -> None:
        mount = self._workspace.mount
        if mount is not None:
            entries = [entry for one in touched for entry in one.entries]
            numbers = {number for one in touched for number in one.numbers}
            await kernel.drop_nodes(mount, entries, sorted(numbers))


def _check_reviewed(changes: Sequence[Change], digests: Mapping[bytes, bytes]) -> None:
    """Nothing may have come since the review but what it showed as part of a moved folder. Raises
    ConflictError."""
    for change in changes:
        place = change.path
        while place and place not in digests:
            place = place.rpartition(b"/")[0]
        if not place:
            raise ConflictError(STAGE_MOVED)
