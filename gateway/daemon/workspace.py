"""A workspace at work: its filesystem, grants, policy and log, and what the user does to grants.

Everything here runs on the daemon's core task. What must be durable before it takes effect is
written to the log first, and waited for; what the kernel has cached is dropped afterwards.
"""

import os
import pwd
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from gateway import clock, durations
from gateway.audit import AuditLog
from gateway.audit.events import Event, show_name
from gateway.authority import keys as keystore
from gateway.authority.grants import AccessName, Grant, GrantStore
from gateway.commit.batch import PutBack
from gateway.commit.history import CommitStore, PendingSource
from gateway.commit.images import Images
from gateway.commit.recovery import open_for_commit, recover
from gateway.daemon import kernel, rulepacks, sources
from gateway.daemon.gate import WorkspaceGate
from gateway.daemon.redaction import build_engine, build_redactor
from gateway.daemon.reserve import Reserve
from gateway.errors import GrantfsError, NotFoundError, RefusedError, UsageError
from gateway.places import Places
from gateway.settings import Settings
from policies.files import ManagedFolder
from policies.loader import PolicySet
from policies.packs import PackError
from vfs import names
from vfs.admission import Audience
from vfs.filesystem import Filesystem
from vfs.projection import Projection
from vfs.redaction import Engine, RuleError, ScanError
from vfs.source import Source
from vfs.stage.quota import Limits
from vfs.virtual import ROOT_INO

EVERYBODY = "any"
"""The `--agent-user` that opens a mount to every user of the machine."""

DEFAULT_SUBJECT = "agent"
HOUSE_SECONDS = 5
"""How often the daemon tidies up after the agent and itself."""

PROFILES = ("secrets", "secrets+pii", "strict", "none")


@dataclass(frozen=True, slots=True)
class GrantSpec:
    """What the user asks to be granted; `seconds` None: until revoked."""

    path: bytes
    access: AccessName = "write"
    mounted_as: bytes | None = None
    seconds: int | None = 8 * 3600
    subject: str = DEFAULT_SUBJECT
    profile: str = "secrets"
    reason: str | None = None


@dataclass(slots=True)
class _Plan:
    """A grant that has been checked and can be made."""

    spec: GrantSpec
    name: bytes
    seconds: int | None
    shortened_by: str | None
    projection: Projection | None
    source: Source | None
    existing: Grant | None = None


def own_folders(places: Places) -> list[Path]:
    """Folders that no grant may reach: state, sockets, configuration, and managed policy."""
    return [places.state, places.runtime, places.config, places.user_policy, places.cache]


def user_name() -> str:
    """The owner's name for the log, or the number of one without a name."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def agent_uid(agent_user: str | None) -> int | None:
    """The one user that is let in beside the owner; None where it is nobody or everybody.

    Raises GrantfsError for a user that there is not.
    """
    if agent_user in (None, EVERYBODY):
        return None
    assert agent_user is not None
    try:
        return pwd.getpwnam(agent_user).pw_uid
    except KeyError:
        raise GrantfsError(
            f"there is no user {agent_user!r} on this machine: name another with --agent-user"
        ) from None


def managed_folders(places: Places) -> list[ManagedFolder]:
    """Folders of managed policy: the system's is root's alone, the one under GRANTFS_HOME may be
    the user's own as well."""
    system, *own = places.managed_policy
    owners = frozenset({0, os.getuid()})
    return [ManagedFolder(system), *(ManagedFolder(one, owners, ancestors=False) for one in own)]


class Workspace:
    """One workspace, opened. `mount` is set by the process before anything is served."""

    def __init__(
        self, folder: Path, places: Places, chosen: Settings, *, new: bool = False
    ) -> None:
        self.folder = folder
        self.places = places
        self.settings = chosen
        self.warnings: list[str] = []
        self.mount: kernel.Mount | None = None
        self.keys = keystore.load(folder, chosen.id, chosen.key_store)
        if warning := keystore.warning(chosen.key_store):
            self.warnings.append(warning)
        self.reserve = Reserve(folder)
        self.log = AuditLog(
            folder, self.keys.signing.sign, create=new, on_full=self.reserve.release
        )
        protected = [os.fsencode(os.path.realpath(path)) for path in own_folders(places)]
        self.policies = PolicySet(
            managed_folders(places), places.user_policy, folder / "policy.json", protected=protected
        )
        self.grants = GrantStore(folder / "grants.db", self.keys, chosen.id)
        self.gate = WorkspaceGate(self.grants, self.policies, self.log)
        self._pack_folders = rulepacks.folders(places)
        self._packs_seen = rulepacks.stamp(self._pack_folders)
        self.rules_problem: str | None = None
        rules = rulepacks.load(self._pack_folders)
        self.gate.serves_plain = rules.serves_plain
        self.redactor = build_redactor(self.keys, rules, folder, places.cache)
        self._cache = places.cache
        self.fs = Filesystem(
            folder,
            self.gate,
            self.redactor,
            self.keys.derive("digest"),
            Limits(chosen.stage_limit),
            Audience(os.getuid(), agent_uid(chosen.agent_user)),
        )
        self.commits = CommitStore(folder / "commits.db", self.keys)
        self.images = Images(folder / "undo", self.keys)
        self.unfinished: list[str] = []
        self.recover_commits()
        self.projections: dict[int, Projection] = {}
        self._expiry_changed = trio.Event()
        self._open_projections()

    def close(self) -> None:
        """Close all stores; the log last, since closing may write to it."""
        self.fs.close()
        for projection in self.projections.values():
            projection.source.close()
        self.grants.close()
        self.commits.close()
        self.log.close()

    def configure(self, changes: Mapping[str, Any]) -> None:
        """Change settings, kept for the next start too, while at work."""
        self.settings = self.settings.with_changes(**changes)
        self.settings.save(self.folder)
        self.fs.quota.limits = Limits(self.settings.stage_limit)

    def recover_commits(self) -> None:
        """Finish or take back what a crash left of a commit; `unfinished` says what has to wait.
        Raises OSError."""
        landed = self.fs.store.landed()
        if landed:
            self.fs.store.sync()
        self.unfinished = []
        for one in recover(self.commits, landed, self._open_for_recovery):
            if one.problem is not None:
                self.warnings.append(f"commit {one.commit}, cut short: {one.problem}")
            if one.waits:
                self.unfinished.append(one.problem or "")
                continue
            self._note_put_back(one.put_back)
            self.commits.finish(one.commit, landed=one.landed)
            if not one.landed:
                self.images.remove(one.commit)
            self.log.append(
                Event.DAEMON_RECOVERED,
                detail={
                    "commit": one.commit,
                    "journal": "finished" if one.landed else "taken back",
                },
            )
        self.forget_old_commits()
        if landed:
            with self.fs.tree.transaction():
                for commit in landed - set(self.commits.pending()):
                    self.fs.store.forget_landed(commit)

    def forget_old_commits(self) -> None:
        """Keep what undo needs within the limits of size and age, the newest first. Raises OSError,
        GrantfsError."""
        kept = 0
        oldest = clock.now() - self.settings.undo_days * 86400
        for commit in self.commits.undoable():
            kept += self.images.size(commit.id)
            if kept > self.settings.undo_limit or commit.at < oldest:
                self.commits.let_go(commit.id)
                self.images.remove(commit.id)

    def _note_put_back(self, found: Sequence[tuple[bytes, PutBack]]) -> None:
        if not found:
            return
        by_root = {row[1]: row[0] for row in self.fs.store.projections()}
        with self.fs.tree.transaction():
            for root, back in found:
                self.fs.tree.put_back(by_root[root], back.path, back.before, back.now)

    def open_for_commit(self, one: PendingSource) -> Source:
        """The source that an earlier commit was about, for another. Raises OSError."""
        return open_for_commit(one, self._open_for_recovery)

    def _open_for_recovery(self, one: PendingSource) -> Source:
        shown = one.shown if one.is_file else None
        return Source(one.root, shown=shown, is_file=one.is_file)

    # -- projections -----------------------------------------------------------------------

    def _open_projections(self) -> None:
        """Open every source that a live grant or staged work still needs."""
        needed = {grant.projection for grant in self.grants.live()} | {
            number for number, top in self.fs.tree.tops.items() if top
        }
        for number, root, name, _is_file, _dev, ino in self.fs.store.projections():
            if number not in needed:
                continue
            try:
                source = sources.open_source(root, own_folders(self.places), name)
            except GrantfsError as error:
                self.warnings.append(error.message)
                continue
            if not source.is_file and source.identity[1] != ino:
                source.close()
                self.warnings.append(
                    f"{show_name(root)} is not the folder that was granted: another has taken its"
                    " name; grant it again if you mean that one"
                )
                continue
            projection = Projection(number, name, source)
            self.projections[number] = projection
            if self.gate.access(number):
                self.fs.project(projection)

    def _projection_row(self, root: bytes, name: bytes) -> int | None:
        for number, known_root, known_name, *_rest in self.fs.store.projections():
            if known_root == root and known_name == name:
                return number
        return None

    def _make_projection(self, root: bytes, name: bytes, source: Source) -> Projection:
        number = self._projection_row(root, name)
        if number is None:
            number = 1 + max((row[0] for row in self.fs.store.projections()), default=0)
        projection = Projection(number, name, source)
        with self.fs.store.transaction():
            self.fs.store.put_projection(number, root, name, source.is_file, *source.identity)
        return projection

    def resolve(self, candidates: Sequence[bytes]) -> tuple[Projection, bytes]:
        """The projection and the place in it that a user's path means.

        Candidates are forms of one argument, best first: absolute ones may be below the mount or
        a granted host path, a relative one is taken from the mount's root. Raises NotFoundError.
        """
        mountpoint = os.fsencode(self.settings.mountpoint)
        found: list[tuple[Projection, bytes]] = []
        for path in candidates:
            if not path.startswith(b"/"):
                one = self._by_mount_path(path.strip(b"/"))
            elif path != mountpoint and names.within(path, mountpoint):
                one = self._by_mount_path(path[len(mountpoint) + 1 :])
            else:
                one = self._by_host_path(path)
            if one is not None:
                found.append(one)
        # From within a source `proj/a` may be read in two ways: what is there decides.
        for projection, place in found:
            if self._is_there(projection, place):
                return projection, place
        if found:
            return found[0]
        raise NotFoundError(
            f"{show_name(candidates[-1])} is in no granted folder of workspace"
            f" {self.settings.name!r}: `grantfs grants` lists them"
        )

    def _is_there(self, projection: Projection, place: bytes) -> bool:
        """True if the source or the mount has something at *place*."""
        try:
            if projection.source.exists(place):
                return True
            node = self.fs.union.root(projection)
            for name in place.split(b"/") if place else ():
                node = self.fs.union.child(node, name)
        except OSError:
            return False
        return True

    def _by_mount_path(self, path: bytes) -> tuple[Projection, bytes] | None:
        name, _, place = path.partition(b"/")
        for projection in self.projections.values():
            if projection.name == name and not (projection.is_room and place):
                return projection, place or projection.granted
        return None

    def _by_host_path(self, path: bytes) -> tuple[Projection, bytes] | None:
        best: tuple[Projection, bytes] | None = None
        for projection in self.projections.values():
            root = projection.source.root
            if projection.is_room and path != root:
                continue
            if names.within(path, root) and (best is None or len(root) > len(best[0].source.root)):
                best = projection, path[len(root) :].lstrip(b"/") or projection.granted
        return best

    # -- granting --------------------------------------------------------------------------

    def _taken_names(self) -> dict[bytes, bytes]:
        return {
            name: projection.source.root
            for name, projection in self.fs.projections.items()
            if self.gate.access(projection.id)
        }

    def plan(self, specs: Sequence[GrantSpec], *, keep: bool) -> list[_Plan]:
        """Check what is to be granted without changing anything. Blocks: call it in a thread.

        `keep` leaves a path that is granted already as it is. Raises GrantfsError.
        """
        taken = self._taken_names()
        plans: list[_Plan] = []
        try:
            for spec in specs:
                plans.append(self._plan_one(spec, taken, keep))
        except BaseException:
            for plan in plans:
                if plan.source is not None:
                    plan.source.close()
            raise
        return plans

    def _plan_one(self, spec: GrantSpec, taken: dict[bytes, bytes], keep: bool) -> _Plan:
        path = sources.check_path(spec.path)
        if spec.profile not in PROFILES:
            raise UsageError(f"unknown profile {spec.profile!r}: use {', '.join(PROFILES)}")
        sources.check_outside(path, own_folders(self.places))
        name = sources.check_mounted_name(spec.mounted_as or os.path.basename(path))
        if keep and spec.mounted_as is None:
            for grant in self.grants.live():
                if grant.path == path and grant.projection in self.projections:
                    return _Plan(spec, grant.mounted_as, None, None, None, None, grant)
        if taken.get(name, path) != path:
            raise UsageError(
                f"two grants named {show_name(name)!r}: {show_name(taken[name])} already has it;"
                " give this one another name with --as NAME"
            )
        decision = self.gate.engine.may_grant(spec.access, path, spec.subject)
        if decision.verdict == "deny":
            raise RefusedError(
                f"policy refuses to grant {show_name(path)} ({decision.rule}, {decision.layer}"
                f" layer): {decision.reason or 'no reason is given'}"
            )
        limit = self.gate.engine.max_duration(path, spec.seconds, subject=spec.subject)
        shortened = f"{limit.rule}, {limit.layer} layer" if limit.rule else None
        known = self.fs.projections.get(name)
        if known is not None and known.source.root == path and self.gate.access(known.id):
            taken[name] = path
            return _Plan(spec, name, limit.seconds, shortened, known, None)
        source = sources.open_source(path, own_folders(self.places), name)
        taken[name] = path
        return _Plan(spec, name, limit.seconds, shortened, None, source)

    async def make(self, plans: Sequence[_Plan]) -> tuple[list[Grant], list[str]]:
        """Make planned grants; they are in the mount on return. Also returns what to tell."""
        made: list[Grant] = []
        notes: list[str] = []
        for plan in plans:
            if plan.existing is not None:
                made.append(plan.existing)
                continue
            grant = await self._make_one(plan)
            made.append(grant)
            if plan.shortened_by is not None:
                notes.append(
                    f"{show_name(grant.path)}: policy ({plan.shortened_by}) shortens this grant to"
                    f" {durations.show(plan.seconds)}"
                )
        self._expiry_changed.set()
        return made, notes

    async def _make_one(self, plan: _Plan) -> Grant:
        spec = plan.spec
        projection = plan.projection
        if projection is None:
            assert plan.source is not None
            projection = self._replace_projection(spec.path, plan.name, plan.source)
        expires = None if plan.seconds is None else clock.now() + plan.seconds
        # On the record before it takes effect; if the log cannot be written, nothing is granted.
        await self._durable(
            Event.GRANT,
            subject=spec.subject,
            path=plan.name,
            detail={
                "scope": f"file:{spec.access}:{show_name(spec.path)}",
                "access": spec.access,
                "redact": spec.profile,
                "expires_at": clock.rfc3339(expires),
                "shortened": plan.shortened_by is not None,
                "by": user_name(),
            },
        )
        grant = self.grants.add(
            projection=projection.id,
            path=spec.path,
            mounted_as=plan.name,
            access=spec.access,
            subject=spec.subject,
            profile=spec.profile,
            reason=spec.reason,
            seconds=plan.seconds,
        )
        self.gate.refresh()
        self.fs.project(projection)
        if self.mount is not None:
            # The root may have become writable, for a single file to be saved.
            await kernel.drop_nodes(self.mount, [], [ROOT_INO])
        return grant

    def _replace_projection(self, root: bytes, name: bytes, source: Source) -> Projection:
        number = self._projection_row(root, name)
        old = self.projections.get(number) if number is not None else None
        if old is not None:
            # Granted before and ended since: the same numbers, so that staged work is found
            # again; handles of the earlier time stay dead by the epoch.
            old.source.close()
            old.source = source
            return old
        projection = self._make_projection(root, name, source)
        self.projections[projection.id] = projection
        return projection

    async def _durable(self, event: Event, **fields: Any) -> None:
        """Write an event and wait until it is on the disk. Raises AuditError (promise 8)."""
        future = self.log.submit_durable(event, **fields)
        await trio.to_thread.run_sync(future.result)

    # -- ending ----------------------------------------------------------------------------

    def select(self, wanted: Sequence[Sequence[bytes]], *, everything: bool) -> list[Grant]:
        """Live grants named by id or path. Raises NotFoundError."""
        if everything:
            return self.grants.live()
        chosen: dict[str, Grant] = {}
        for candidates in wanted:
            found = self._select_one(candidates)
            if not found:
                raise NotFoundError(
                    f"no live grant {show_name(candidates[-1])!r}: `grantfs grants` lists them"
                )
            chosen.update({grant.id: grant for grant in found})
        return list(chosen.values())

    def _select_one(self, candidates: Sequence[bytes]) -> list[Grant]:
        live = self.grants.live()
        named = os.fsdecode(candidates[-1])
        found = [grant for grant in live if grant.id == named]
        if found:
            return found
        try:
            projection, place = self.resolve(candidates)
        except NotFoundError:
            return []
        at_top = place == projection.granted
        return [grant for grant in live if grant.projection == projection.id and at_top]

    async def revoke(self, grants: Sequence[Grant]) -> None:
        """End grants; on return their files are gone and open handles are dead (promise 7)."""
        for grant in grants:
            await self._durable(
                Event.REVOKE,
                subject=grant.subject,
                path=grant.mounted_as,
                grant=grant.id,
                detail={"scope": grant.scopes[-1], "by": user_name()},
            )
            self.grants.revoke(grant)
        await self._after_ending({grant.projection for grant in grants})

    async def _after_ending(self, projections: set[int]) -> None:
        self.gate.refresh()
        self._expiry_changed.set()
        for number in projections:
            projection = self.projections.get(number)
            if projection is not None:
                await self._end_or_narrow(projection)

    async def _end_or_narrow(self, projection: Projection) -> None:
        ended = not self.gate.access(projection.id)
        if ended:
            nodes = self.fs.begin_end(projection)
        else:
            projection.draining = True
            nodes = self.fs.nodes.of_projection(projection)
        if self.mount is not None:
            shown = self.fs.root.names_of(projection)
            await kernel.drop_projection(self.mount, shown, nodes)
        if ended:
            self.fs.finish_end(projection)
        projection.draining = False

    async def expire(self) -> None:
        """End grants whose time is over, again and again, by both clocks; runs until cancelled.

        Looks at least once a second: a machine that slept or a clock that was set must not let a
        grant live longer than that.
        """
        while True:
            due = [
                grant
                for grant in self.grants.all()
                if grant.revoked_at is None
                and not grant.ended
                and grant.status(self.grants.boot_id) == "expired"
            ]
            for grant in due:
                self.grants.end(grant)
                self.log.append(
                    Event.EXPIRE,
                    subject=grant.subject,
                    path=grant.mounted_as,
                    grant=grant.id,
                    detail={"scope": grant.scopes[-1]},
                )
            if due:
                await self._after_ending({grant.projection for grant in due})
            left = [
                seconds
                for grant in self.grants.live()
                if (seconds := grant.seconds_left(self.grants.boot_id)) is not None
            ]
            self._expiry_changed = trio.Event()
            with trio.move_on_after(max(0.0, min([1.0, *left]))):
                await self._expiry_changed.wait()

    async def renew(self, grant: Grant, seconds: int | None) -> str | None:
        """Give a live grant a later end; returns what policy made of it, if anything."""
        if grant.status(self.grants.boot_id) != "live":
            raise NotFoundError(f"grant {grant.id} has ended: grant {show_name(grant.path)} again")
        limit = self.gate.engine.max_duration(grant.path, seconds, subject=grant.subject)
        decision = self.gate.engine.may_grant(grant.access, grant.path, grant.subject)
        if decision.verdict == "deny":
            raise RefusedError(
                f"policy refuses to renew {show_name(grant.path)} ({decision.rule}): "
                f"{decision.reason or 'no reason is given'}"
            )
        expires = None if limit.seconds is None else clock.now() + limit.seconds
        await self._durable(
            Event.GRANT_RENEWED,
            subject=grant.subject,
            path=grant.mounted_as,
            grant=grant.id,
            detail={
                "scope": grant.scopes[-1],
                "expires_at": clock.rfc3339(expires),
                "shortened": limit.rule is not None,
            },
        )
        self.grants.renew(grant, limit.seconds)
        self.gate.refresh()
        self._expiry_changed.set()
        if limit.rule is None:
            return None
        return f"policy ({limit.rule}) shortens this grant to {durations.show(limit.seconds)}"

    # -- policy ----------------------------------------------------------------------------

    async def watch_policy(self) -> None:
        """Reload policy within a second of a change of its files; runs until cancelled."""
        while True:
            await trio.sleep(0.5)
            if self.policies.changed():
                await self.reload_policy()
            seen = await trio.to_thread.run_sync(rulepacks.stamp, self._pack_folders)
            if seen != self._packs_seen:
                self._packs_seen = seen
                await self.reload_rules()

    async def reload_policy(self) -> None:
        """Read policy again; a file that stops parsing leaves the last good one in force."""
        before = self.policies.generation
        problems = await trio.to_thread.run_sync(self.policies.reload)
        for problem in problems:
            self.log.append(Event.POLICY, outcome="failed", detail={"why": str(problem)})
        if self.policies.generation != before:
            self.log.append(
                Event.POLICY, detail={"policy_version": self.policies.current.version[:16]}
            )
            # What is hidden now must leave the kernel's caches, and maps with it.
            for projection in list(self.fs.projections.values()):
                await self._end_or_narrow(projection)

    async def reload_rules(self) -> None:
        """Read the rule packs again; while one cannot be used the last good ones stay in force."""

        def read() -> tuple[rulepacks.Rules, Engine]:
            rules = rulepacks.load(self._pack_folders)
            return rules, build_engine(rules, self._cache)

        try:
            rules, engine = await trio.to_thread.run_sync(read)
        except (PackError, RuleError, ScanError) as error:
            self.rules_problem = str(error)
            self.log.append(Event.POLICY, outcome="failed", detail={"why": str(error)})
            return
        self.rules_problem = None
        self.gate.serves_plain = rules.serves_plain
        self.redactor.use(engine)
        self.gate.refresh()
        self.log.append(Event.POLICY, detail={"rules_version": engine.version[:16]})
        # What is masked now must leave the kernel's caches, and maps with it.
        for projection in list(self.fs.projections.values()):
            await self._end_or_narrow(projection)

    async def keep_house(self) -> None:
        """Now and then give the disk what nothing names any more, and take back of it what it had
        to be lent; runs until cancelled."""
        while True:
            job = self.fs.tree.tidy()
            if job is not None:
                await trio.to_thread.run_sync(job)
            await trio.to_thread.run_sync(self.reserve.hold)
            await trio.sleep(HOUSE_SECONDS)

    async def end_service(self) -> None:
        """Before the mount goes: end every projection as a revocation does, so that nobody keeps
        a file of it open or mapped. Grants and staged work stay for the next start."""
        for projection in list(self.fs.projections.values()):
            nodes = self.fs.begin_end(projection)
            if self.mount is not None:
                shown = self.fs.root.names_of(projection)
                await kernel.drop_projection(self.mount, shown, nodes)
            self.fs.finish_end(projection)
