"""One commit on its way into its sources: whole, or not at all.

Every change is reviewed and its new content written to a temporary sibling; then all steps are
written down; then they are taken. What decides is one transaction of the stage's database, which
forgets the changes and notes the commit: before it, whatever happens is taken back (by `undo` here,
by `gateway.commit.recovery` after a crash); after it, the commit is made and only leftovers go.
"""

import hashlib
import hmac
import logging
import os
import stat
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from gateway.audit.events import show_name
from gateway.commit import closure
from gateway.commit.batch import Batch
from gateway.commit.history import Commit, PendingSource
from gateway.commit.images import Keeper, Kept
from gateway.commit.plan import Plan, removals
from gateway.commit.steps import MovedError, Put, RemoveFolder, Step, Take
from gateway.daemon.clearing import clear_away
from gateway.daemon.jobs import CannotLandError, JobMaker, Part
from gateway.daemon.outcome import OnConflict, Outcome, Placeholders, diff_json
from gateway.daemon.review import Reviewed, Reviewer
from gateway.daemon.workspace import Workspace
from gateway.errors import TOO_LARGE, ConflictError, GrantfsError
from gateway.review.hunks import HunkMismatchError, apply_hunks, hunks, is_binary
from gateway.review.merge import merge3
from gateway.review.patch import Side
from gateway.review.picks import Picks
from vfs.projection import Projection
from vfs.redaction import ScanError
from vfs.source import Source
from vfs.stage.changes import Change, Kind
from vfs.stage.settle import Settler, Snapshot, Touched
from vfs.stage.tree import StagedInode

log = logging.getLogger(__name__)

_TOGETHER = 32
_TOGETHER_BYTES = 16 << 20

STAGE_MOVED = "the stage has moved on since it was reviewed: look at `grantfs status` again"
_WRITTEN = "the agent is still writing to it"


class MovedGroupError(Exception):
    """A group's source changed while it landed; nothing of the commit has. `changes` are those of
    the group: the rest can be tried again."""

    def __init__(self, changes: Sequence[Change], why: str) -> None:
        super().__init__(why)
        self.changes = changes


class FailedError(Exception):
    """The system refused a step; nothing of the commit has landed. `changes` are those that the
    step was for."""

    def __init__(self, changes: Sequence[Change], error: OSError) -> None:
        super().__init__(error.strerror or str(error))
        self.changes = changes


class TooLargeError(GrantfsError):
    """The commit could not be undone."""


@dataclass(slots=True)
class _Group:
    """Changes that land together; `steps_taken` where they had to come first."""

    changes: list[Change]
    parts: list[Part] = field(default_factory=list)
    plan: Plan | None = None
    steps: list[Step] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    steps_taken: bool = False


@dataclass(slots=True)
class _OnSource:
    """What a commit does to one source."""

    number: int
    maker: JobMaker
    source: Source
    batch: Batch
    renewed: list[bytes]
    groups: list[_Group]
    removals: list[Step] = field(default_factory=list)

    def steps(self) -> list[Step]:
        """All that is to be done, or was, on this source."""
        return [step for group in self.groups for step in group.steps] + self.removals

    @property
    def projection(self) -> Projection:
        """The projection of the source."""
        return self.maker.projection


@dataclass(frozen=True, slots=True)
class Terms:
    """How a commit is to be made. `digests` are those of the reviewed changes by path, None where
    it is not bound to a review; `picks` hunks by path, of files that land in part."""

    placeholders: Placeholders = "ask"
    on_conflict: OnConflict = "refuse"
    without_undo: bool = False
    digests: Mapping[bytes, bytes] | None = None
    picks: Mapping[bytes, Picks] = field(default_factory=dict)


class Transaction:
    """One attempt at a commit; *prune* removes from the stage what makes no difference any more."""

    def __init__(
        self,
        workspace: Workspace,
        reviewer: Reviewer,
        commit: Commit,
        terms: Terms,
        prune: Callable[[], list[Touched]],
    ) -> None:
        self._workspace = workspace
        self._fs = workspace.fs
        self._history = workspace.commits
        self._reviewer = reviewer
        self._commit = commit
        self._terms = terms
        self._prune = prune
        self._digest_key = workspace.keys.derive("digest")
        self._sources: list[_OnSource] = []
        self._landed = False
        self.outcome = Outcome()
        self.touched: list[Touched] = []
        self.refused: list[Change] = []

    async def run(self, changes: Sequence[Change]) -> list[Reviewed]:
        """Land what can land; what cannot is in `outcome`, and in `refused`. Returns what landed.

        Raises MovedGroupError, FailedError, ConflictError and GrantfsError, after which every
        source is as it was.
        """
        with trio.CancelScope(shield=True):
            try:
                await self._open(changes)
                landed = await self._run()
                if not landed:
                    await self._take_back(None)
            except BaseException as error:
                await self._take_back(error)
                if isinstance(error, OSError):
                    raise FailedError(changes, error) from error
                raise
            finally:
                for on in self._sources:
                    on.source.close()
                    on.projection.source.look_again()
        return landed

    async def _run(self) -> list[Reviewed]:
        for on in self._sources:
            await self._prepare(on)
            self._drop_written(on)
        parts = [part for on in self._sources for group in on.groups for part in group.parts]
        if not parts:
            return []
        reviewed = [part.reviewed for part in parts if part.reviewed is not None]
        self._commit.paths[:] = [one.path for one in reviewed]
        self._commit.grants[:] = self._grants_used()
        await trio.to_thread.run_sync(self._describe, reviewed)
        for on in self._sources:
            await self._plan(on)
        await self._keep()
        for on in self._sources:
            await self._write_down(on)
        for on in self._sources:
            await self._land(on)
        self._settle()
        batches = [on.batch for on in self._sources]
        await trio.to_thread.run_sync(clear_away, self._workspace, self._commit.id, batches)
        self.outcome.applied += [one.path for one in reviewed]
        for part in parts:
            if part.merged is not None:
                self.outcome.merged.append(show_name(part.change.path))
            elif part.overwrites:
                self.outcome.overwritten.append(show_name(part.change.path))
        return reviewed

    # -- before ----------------------------------------------------------------------------

    async def _open(self, changes: Sequence[Change]) -> None:
        pending = []
        for projection in {change.projection.id: change.projection for change in changes}.values():
            mine = [change for change in changes if change.projection is projection]
            try:
                source = projection.source.for_commit()
            except OSError as error:
                why = f"its source is out of reach: {error.strerror}"
                self._refuse(mine, {one.path: why for one in mine}, self.outcome.conflicts)
                continue
            maker = JobMaker(self._fs, projection)
            maker.note_shared(mine)
            self._sources.append(
                _OnSource(
                    len(self._sources), maker, source, Batch(source, self._commit.id, len(mine)),
                    self._settler(projection).same_bases(),
                    [_Group(group) for group in _in_order(closure.groups(mine))],
                )
            )  # fmt: skip
            ino = projection.source.identity[1]
            folders = _folders_of(mine)
            pending.append(
                PendingSource(
                    projection.name, source.root, source.only, source.is_file, ino, folders
                )
            )
        if pending:
            await trio.to_thread.run_sync(self._history.begin, self._commit, pending)

    def _settler(self, projection: Projection) -> Settler:
        return Settler(self._fs.union, self._fs.files, projection)

    def _refuse(
        self, group: Sequence[Change], why: Mapping[bytes, str], where: list[dict[str, str]]
    ) -> None:
        """Note a group that does not land: *why* for those that cannot, and the rest with them."""
        self.refused += group
        where += [{"path": show_name(path), "why": text} for path, text in why.items()]
        blocking = show_name(next(iter(why)))
        with_it = f"it goes together with {blocking}, which cannot land"
        self.outcome.conflicts += [
            {"path": show_name(change.path), "why": with_it}
            for change in group
            if change.path not in why
        ]

    async def _prepare(self, on: _OnSource) -> None:
        """Review every group and write its new contents beside the old ones."""
        leaving = frozenset(self._leaving(on))
        waiting, on.groups = on.groups, []
        while waiting:
            opening = _turn(waiting[0].changes)[0] == 0
            count = 1 if opening else self._how_many(waiting)
            taken, waiting = waiting[:count], waiting[count:]
            try:
                reviewed = await self._review(taken)
                ready = [group for group in reviewed if self._make_plan(on, group, leaving)]
                await self._in_thread(ready, _prepare_plan)
            finally:
                for group in taken:
                    _let_go(group)
            if opening:
                # A folder that is to be written to is made writable before that.
                await self._in_thread(ready, lambda group: self._open_up(on, group))
            on.groups += ready
        if on.groups:
            await self._in_thread(on.groups[-1:], lambda _group: on.batch.sync_files())

    def _how_many(self, waiting: Sequence[_Group]) -> int:
        """How many of the groups are taken at once: each holds descriptors and contents."""
        changes = size = 0
        for number, group in enumerate(waiting):
            changes += len(group.changes)
            for change in group.changes:
                inode = self._staged(change)
                if inode is not None and inode.body is not None:
                    size += self._fs.bodies.stat(inode.body).st_size
            if number and (changes > _TOGETHER or size > _TOGETHER_BYTES):
                return number
        return len(waiting)

    def _leaving(self, on: _OnSource) -> list[bytes]:
        """Folders of the source that will be gone."""
        changes = [change for group in on.groups for change in group.changes]
        deleted = [
            one.place
            for one in changes
            if one.item is None and one.old is not None and stat.S_ISDIR(one.old.mode)
        ]
        return on.maker.emptied(changes) + deleted

    async def _in_thread(self, groups: Sequence[_Group], work: Callable[[_Group], None]) -> None:
        """Do *work* for each of the groups in a worker thread; say of which one it failed."""
        at = [0]

        def all_of_them() -> None:
            for at[0], group in enumerate(groups):
                work(group)

        try:
            await trio.to_thread.run_sync(all_of_them)
        except MovedError as error:
            raise MovedGroupError(groups[at[0]].changes, str(error)) from error
        except OSError as error:
            raise FailedError(groups[at[0]].changes, error) from error

    async def _review(self, groups: Sequence[_Group]) -> list[_Group]:
        """Open, read and restore what the groups are about; those that can land."""
        for group in groups:
            for change in group.changes:
                sides = self._reviewer.open_sides(change)
                inode = self._staged(change)
                before = Snapshot.of(inode) if inode is not None else None
                group.parts.append(Part(change, sides, before))
        found = await trio.to_thread.run_sync(
            lambda: [[self._judge_and_render(part) for part in group.parts] for group in groups]
        )
        return [
            group
            for group, verdicts in zip(groups, found, strict=True)
            if self._may_land(group, verdicts)
        ]

    def _staged(self, change: Change) -> StagedInode | None:
        item = change.item
        return self._fs.tree.inodes.get(item.ino) if item is not None and item.ino else None

    def _judge(self, part: Part) -> tuple[str, str]:
        """What keeps a part from landing, and why; both empty if nothing does. In a thread."""
        sides = part.sides
        try:
            part.reviewed = self._reviewer.review(sides)
            if part.reviewed.conflict is not None:
                why = self._resolve(part, part.reviewed)
                if why:
                    return "conflict", why
            new = sides.new
            picks = self._terms.picks.get(sides.change.path)
            if picks is not None:
                self._pick(part, picks)
            if new is None or new.raw or not stat.S_ISREG(new.mode):
                return "", ""
            if sides.change.kind is Kind.MODE:
                return "", ""
            shown = new.read()
            if part.merged is not None:
                shown = part.merged
            elif part.partial is not None:
                shown = part.partial
            result = self._reviewer.restoration(sides, shown, self._terms.placeholders)
        except HunkMismatchError as error:
            return "conflict", str(error)
        except ScanError as error:
            return "failed", str(error)
        except OSError as error:
            raise FailedError([part.change], error) from error
        if result.undecided:
            why = ", ".join(sorted({one.why for one in result.undecided}))
            return "undecided", f"{len(result.undecided)} placeholder(s) {why}"
        part.data = result.data
        if part.partial is not None:
            part.digest = hmac.new(self._digest_key, part.data, hashlib.sha256).digest()
        return "", ""

    def _resolve(self, part: Part, reviewed: Reviewed) -> str:
        """Deal with a conflict as was asked; why it stays one, empty if it does not."""
        why, sides = reviewed.conflict or "", part.sides
        if self._terms.on_conflict == "overwrite":
            if sides.new is None and part.change.item is not None:
                return why  # it could not be read
            part.overwrites = True
            return ""
        mergeable = sides.old is not None and not sides.old.raw and sides.old.fd >= 0
        if self._terms.on_conflict != "merge" or sides.conflict is not None or not mergeable:
            return why
        base, theirs = reviewed.old, reviewed.new
        ours = self._reviewer.read_masked(sides.source)
        if base is None or theirs is None or ours is None or reviewed.binary:
            return f"{why}, and it cannot be merged"
        if is_binary(ours.data) or part.change.path in self._terms.picks:
            return f"{why}, and it cannot be merged"
        merge = merge3(base.data, ours.data, theirs.data)
        if merge.conflicts:
            return f"{why}, and a merge has {merge.conflicts} conflict(s)"
        part.merged = merge.data
        reviewed.old, reviewed.new = ours, Side(theirs.mode, merge.data)
        reviewed.hunks = hunks(ours.data, merge.data, path=part.change.path)
        return ""

    @staticmethod
    def _pick(part: Part, picks: Picks) -> None:
        """Let the part be about some hunks alone. Raises HunkMismatchError."""
        reviewed, path = part.reviewed, part.change.path
        if reviewed is None or reviewed.new is None or not reviewed.hunks:
            raise HunkMismatchError("it has no hunks to choose from")
        old = reviewed.old.data if reviewed.old is not None else b""
        partial = apply_hunks(old, picks.taken(reviewed.hunks, path))
        if partial != reviewed.new.data:
            part.partial = partial
            reviewed.new = Side(reviewed.new.mode, partial)
            reviewed.hunks = hunks(old, partial, path=path)

    def _judge_and_render(self, part: Part) -> tuple[str, str]:
        found = self._judge(part)
        if part.reviewed is not None:
            part.reviewed.render()  # contents of all would be more than memory
        return found

    def _may_land(self, group: _Group, verdicts: Sequence[tuple[str, str]]) -> bool:
        places = {
            "conflict": self.outcome.conflicts,
            "undecided": self.outcome.undecided,
            "failed": self.outcome.failed,
        }
        for part, (verdict, why) in zip(group.parts, verdicts, strict=True):
            if verdict:
                self._refuse(group.changes, {part.change.path: why}, places[verdict])
                return False
        if self._terms.digests is not None:
            for part in group.parts:
                digest = self._terms.digests.get(part.change.path)
                if part.reviewed is None or (digest and digest != part.reviewed.digest):
                    raise ConflictError(STAGE_MOVED)
        return True

    def _make_plan(self, on: _OnSource, group: _Group, leaving: frozenset[bytes]) -> bool:
        try:
            jobs = on.maker.jobs(group.parts)
        except CannotLandError as error:
            why = {change.path: str(error) for change in group.changes}
            self._refuse(group.changes, why, self.outcome.failed)
            return False
        except OSError as error:
            raise FailedError(group.changes, error) from error
        group.plan = Plan(on.batch, jobs, on.maker.folders(group.changes), leaving)
        return True

    def _drop_written(self, on: _OnSource) -> None:
        """Leave out what the agent has written to since it was read."""
        kept = []
        for group in on.groups:
            written = [part.change.path for part in group.parts if self._written(part)]
            if written and not group.steps_taken:
                why = dict.fromkeys(written, _WRITTEN)
                self._refuse(group.changes, why, self.outcome.conflicts)
            else:
                kept.append(group)
        on.groups = kept

    def _written(self, part: Part) -> bool:
        inode = self._staged(part.change)
        return inode is not None and inode.writes != part.sides.writes

    # -- the steps -------------------------------------------------------------------------

    def _open_up(self, on: _OnSource, group: _Group) -> None:
        assert group.plan is not None
        group.steps = group.plan.steps(frozenset())
        self._history.intend(self._commit.id, on.number, group.steps)
        group.steps_taken = True
        on.batch.perform(group.steps)

    async def _plan(self, on: _OnSource) -> None:
        """Write down all that is to be done, before the first of it is."""
        landing = [group for group in on.groups if not group.steps_taken]
        met = Counter(one for group in on.groups if group.plan for one in group.plan.identities())
        shared = frozenset(identity for identity, count in met.items() if count > 1)

        def plan(group: _Group) -> None:
            assert group.plan is not None
            group.steps = group.plan.steps(shared)

        await self._in_thread(landing, plan)
        emptied = on.maker.emptied([change for group in on.groups for change in group.changes])

        def plan_removals(_group: _Group) -> None:
            steps = [step for group in on.groups for step in group.steps]
            gone = {step.path for step in steps if isinstance(step, RemoveFolder)}
            on.removals = removals(on.batch, [place for place in emptied if place not in gone])

        await self._in_thread(on.groups[-1:], plan_removals)

    async def _keep(self) -> None:
        """Keep what an undo needs of what is about to go, within the limit."""
        limit = self._workspace.settings.undo_limit
        size = sum(_size_of(step) for on in self._sources for step in on.steps())
        if size > limit:
            if not self._terms.without_undo:
                raise TooLargeError(
                    f"{TOO_LARGE}: the commit replaces {size} bytes, of which {limit} can be kept"
                    " (`grantfs up --undo-limit SIZE`); -y commits it all the same"
                )
            return
        images = self._workspace.images
        writer = await trio.to_thread.run_sync(images.write, self._commit.id)
        try:
            for on in self._sources:
                keeper = Keeper(on.batch.hands, writer, self._digest_key)

                def keep(group: _Group, keeper: Keeper = keeper) -> None:
                    group.kept = keeper.keep(group.steps)

                await self._in_thread(on.groups, keep)
            await trio.to_thread.run_sync(writer.close)
        except FailedError as error:
            writer.abandon()
            if not isinstance(error.__cause__, PermissionError):
                raise
            # Not ours to read: it can be moved or removed, and not be brought back.
            self.outcome.warnings.append(
                "what was replaced cannot be read: this commit cannot be undone"
            )
            await trio.to_thread.run_sync(images.remove, self._commit.id)
            return
        except BaseException:
            writer.abandon()
            raise
        await trio.to_thread.run_sync(self._history.keep, self._commit.id)

    async def _write_down(self, on: _OnSource) -> None:
        """Nothing of this is done before it is in the journal."""
        landing = [group for group in on.groups if not group.steps_taken]
        steps = [step for group in landing for step in group.steps]
        kept = [one for group in landing for one in group.kept or [Kept()] * len(group.steps)]
        steps += on.removals
        kept += [Kept()] * len(on.removals)
        intend = partial(self._history.intend, self._commit.id, on.number, steps, kept)
        await trio.to_thread.run_sync(intend)

    async def _land(self, on: _OnSource) -> None:
        def perform(group: _Group) -> None:
            if not group.steps_taken:
                on.batch.perform(group.steps)

        def end(_group: _Group) -> None:
            on.batch.perform(on.removals)
            on.batch.sync()

        await self._in_thread(on.groups, perform)
        await self._in_thread(on.groups[-1:], end)

    def _grants_used(self) -> list[tuple[str, str]]:
        landing = {on.projection.id for on in self._sources if on.groups}
        return [
            (grant.id, grant.subject)
            for grant in self._workspace.grants.live()
            if grant.projection in landing and grant.access == "write"
        ]

    def _describe(self, reviewed: Sequence[Reviewed]) -> None:
        files = [diff_json(one) for one in reviewed]
        self._history.describe(self._commit, files, b"".join(one.text for one in reviewed))

    # -- the end ---------------------------------------------------------------------------

    def _settle(self) -> None:
        """The moment that decides. Raises FailedError."""
        parts = [part for on in self._sources for group in on.groups for part in group.parts]
        bases = {
            id(part): self._rebase(part)
            for part in parts
            if part.partial is not None or self._written(part)
        }
        for on in self._sources:
            on.projection.source.look_again()
        try:
            with self._fs.tree.transaction():
                for on in self._sources:
                    settler = self._settler(on.projection)
                    self.touched.append(settler.touched)
                    for group in on.groups:
                        for part in group.parts:
                            settler.landed(part.change, part.before, bases.get(id(part)))
                    settler.renew_bases(on.renewed)
                self.touched += self._prune()
                self._fs.store.note_landed(self._commit.id)
            self._landed = True
        except OSError as error:
            raise FailedError([part.change for part in parts[:1]], error) from error

    def _rebase(self, part: Part) -> tuple[bytes, int] | None:
        """The new base of a file that has landed in part, or that the agent wrote to while it
        landed."""
        inode = self._staged(part.change)
        if inode is None or inode.body is None:
            return None
        digest, shown = part.digest, part.partial
        if shown is None:
            data, shown = self._reviewer.look_at(part.change)
            digest = hmac.new(self._digest_key, data, hashlib.sha256).digest()
        body, fd = self._fs.bodies.create()
        with os.fdopen(fd, "wb") as file:
            file.write(shown)
        return digest, body

    async def _take_back(self, because: BaseException | None) -> None:
        """Put every source back as it was. Raises GrantfsError if that was not possible."""
        if self._landed:
            return
        problem = None
        for on in reversed(self._sources):
            try:
                found = await trio.to_thread.run_sync(on.batch.undo)
                if found:
                    with self._fs.tree.transaction():
                        for back in found:
                            number = on.projection.id
                            self._fs.tree.put_back(number, back.path, back.before, back.now)
            except OSError as error:
                problem = f"{os.fsdecode(on.source.root)}: {error.strerror or error}"
                log.error("commit %s was not taken back whole: %s", self._commit.id, problem)
        if problem is not None:
            raise GrantfsError(
                f"the commit failed ({because}), and not all could be put back: {problem}"
            )
        try:
            self._workspace.images.remove(self._commit.id)
            await trio.to_thread.run_sync(
                partial(self._history.finish, self._commit.id, landed=False)
            )
        except (OSError, GrantfsError) as error:
            log.error("the journal of commit %s cannot be cleared: %s", self._commit.id, error)


def _size_of(step: Step) -> int:
    """Bytes of a file that a step takes away."""
    if isinstance(step, Take | Put) and step.expected is not None:
        return step.expected.size
    return 0


def _prepare_plan(group: _Group) -> None:
    assert group.plan is not None
    group.plan.prepare()


def _let_go(group: _Group) -> None:
    """Close what the landing does not need any more, and drop contents."""
    for part in group.parts:
        part.sides.close()
        part.data = b""


def _folders_of(changes: Sequence[Change]) -> list[bytes]:
    """Folders in which there may be temporary names."""
    found = {b""}
    for change in changes:
        for place in (change.place, change.old_place or b""):
            while place:
                place = place.rpartition(b"/")[0]
                found.add(place)
    return sorted(found)


def _turn(group: Sequence[Change]) -> tuple[int, int]:
    change = group[0]
    if len(group) > 1 or change.kind is not Kind.MODE or not change.is_folder:
        return 1, 0
    opens = change.item is not None and change.item.mode & 0o300 == 0o300
    return (0, len(change.place)) if opens else (2, -len(change.place))


def _in_order(groups: list[list[Change]]) -> list[list[Change]]:
    """Folders that are to be written to are opened up first, those that are to be closed come
    last, the deepest first."""
    return sorted(groups, key=_turn)
