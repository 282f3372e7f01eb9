"""What each control request does: from a validated message to the workspace, and back to JSON."""

import base64
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any

import trio

from gateway import clock
from gateway.audit import AuditError
from gateway.audit.events import Event, show_name
from gateway.authority.grants import Grant
from gateway.control import messages
from gateway.control.server import Send
from gateway.daemon.commit import Committer
from gateway.daemon.outcome import diff_json
from gateway.daemon.review import Reviewed
from gateway.daemon.workspace import GrantSpec, Workspace
from gateway.errors import GrantfsError
from gateway.review import archive
from gateway.review.hunks import Hunk
from gateway.scanning import scan_path

Result = tuple[Any, list[str]]

_PART_BYTES = 1 << 20
"""How much of a file is sent at once."""


def grant_spec(wanted: messages.WantedGrant) -> GrantSpec:
    """The grant that a message asks for."""
    return GrantSpec(
        path=os.fsencode(wanted.path),
        access=wanted.access,
        mounted_as=None if wanted.mounted_as is None else os.fsencode(wanted.mounted_as),
        seconds=wanted.seconds,
        subject=wanted.subject,
        profile=wanted.profile,
        reason=wanted.reason,
    )


def _raw(paths: Sequence[Sequence[str]]) -> list[list[bytes]]:
    return [[os.fsencode(form) for form in forms] for forms in paths]


def _exact(reviewed: Reviewed) -> dict[str, Any]:
    """Hunks for a client that takes them apart: bytes as characters (Latin-1)."""
    return {
        "path": os.fsdecode(reviewed.change.path),
        "shown": reviewed.path,
        "hunks": [
            {
                "id": hunk.id, "old_start": hunk.old_start, "old_count": hunk.old_count,
                "new_start": hunk.new_start, "new_count": hunk.new_count,
                "lines": [line.decode("latin-1") for line in hunk.lines],
            }
            for hunk in reviewed.hunks
        ],
    }  # fmt: skip


def _names(reviewed: Reviewed) -> list[str | None]:
    """git's letter for a change, its path and the path it came from."""
    change = reviewed.change
    origin = change.from_path
    return [
        reviewed.letter,
        os.fsdecode(change.path),
        None if origin is None else os.fsdecode(origin),
    ]


def _hunk(edited: messages.EditedHunk) -> Hunk:
    lines = tuple(line.encode("latin-1") for line in edited.lines)
    old = sum(line[:1] in (b" ", b"-") for line in lines)
    new = sum(line[:1] in (b" ", b"+") for line in lines)
    return Hunk("edited", edited.old_start, old, edited.old_start, new, lines)


class Handlers:
    """Answers control requests for one workspace."""

    def __init__(self, workspace: Workspace, stop: Callable[[], None]) -> None:
        self._workspace = workspace
        self._committer = Committer(workspace)
        self._stop = stop
        self._table: dict[type, Callable[[Any], Awaitable[Result]]] = {
            messages.Info: self._info,
            messages.Stop: self._stop_all,
            messages.MakeGrants: self._grant,
            messages.ListGrants: self._grants,
            messages.Renew: self._renew,
            messages.Revoke: self._revoke,
            messages.Status: self._status,
            messages.Commit: self._commit,
            messages.Discard: self._discard,
            messages.Log: self._log,
            messages.Show: self._show,
            messages.Undo: self._undo,
            messages.Scan: self._scan,
            messages.FlushAudit: self._flush,
            messages.Configure: self._configure,
        }

    async def __call__(self, request: messages.Request, send: Send) -> Result:
        """Do what a request asks; GrantfsError where it cannot be done. *send* sends a part of a
        large answer ahead."""
        with self._workspace.reserve.lent():
            if isinstance(request, messages.Diff):
                return await self._diff(request, send)
            if isinstance(request, messages.Export):
                return await self._export(request, send)
            return await self._table[type(request)](request)

    def _shown(self, grants: Sequence[Grant]) -> list[dict[str, Any]]:
        return [grant.to_json(self._workspace.grants.boot_id) for grant in grants]

    def info(self) -> dict[str, Any]:
        """What `up` and `ps` show."""
        workspace = self._workspace
        changes = self._committer.choose(())
        return {
            "workspace": workspace.settings.name,
            "mountpoint": workspace.settings.mountpoint,
            "pid": os.getpid(),
            "grants": self._shown(workspace.grants.live()),
            "changes": len(changes),
            "requests": 0,
            "stage_bytes": workspace.fs.quota.used,
            "stage_limit": workspace.fs.quota.limits.size,
        }

    def warnings(self) -> list[str]:
        """What the user is told each time: a weak key store, sources and policies that failed."""
        workspace = self._workspace
        found = list(workspace.warnings)
        found += [f"policy: {problem}" for problem in workspace.policies.problems]
        if workspace.rules_problem is not None:
            found.append(f"rule packs: {workspace.rules_problem}; the last good ones stay in force")
        if workspace.log.failed is not None:
            found.append(f"the log cannot be written: {workspace.log.failed}")
        return found

    async def _info(self, _request: messages.Info) -> Result:
        return self.info(), self.warnings()

    async def _stop_all(self, request: messages.Stop) -> Result:
        workspace = self._workspace
        workspace.log.append(
            Event.WORKSPACE_DOWN,
            detail={"mountpoint": workspace.settings.mountpoint, "forced": request.force},
        )
        self._stop()
        return {"workspace": workspace.settings.name, "pid": os.getpid()}, []

    async def make_grants(
        self, wanted: Sequence[messages.WantedGrant], *, keep: bool
    ) -> tuple[list[Grant], list[str]]:
        """Check all, then make all."""
        specs = [grant_spec(one) for one in wanted]
        plans = await trio.to_thread.run_sync(lambda: self._workspace.plan(specs, keep=keep))
        return await self._workspace.make(plans)

    async def _grant(self, request: messages.MakeGrants) -> Result:
        made, notes = await self.make_grants(request.grants, keep=request.keep)
        return self._shown(made), notes

    async def _grants(self, request: messages.ListGrants) -> Result:
        store = self._workspace.grants
        return self._shown(store.all() if request.all else store.live()), []

    async def _renew(self, request: messages.Renew) -> Result:
        grant = self._workspace.grants.get(request.grant)
        note = await self._workspace.renew(grant, request.seconds)
        return self._shown([grant])[0], [note] if note else []

    async def _revoke(self, request: messages.Revoke) -> Result:
        workspace = self._workspace
        chosen = workspace.select(_raw(request.grants), everything=request.all)
        await workspace.revoke(chosen)
        return [
            {"id": grant.id, "revoked_at": clock.rfc3339(grant.revoked_at)} for grant in chosen
        ], []

    async def _status(self, request: messages.Status) -> Result:
        reviewed, digest = await self._committer.review(_raw(request.paths))
        left_out = self._committer.left_out([one.change for one in reviewed])
        shown = {
            "workspace": self._workspace.settings.name,
            "digest": digest,
            "changes": [
                {**one.to_json(), "left_out": show_name(tree) if tree is not None else None}
                for one, tree in ((one, left_out.get(one.change.path)) for one in reviewed)
            ],
            "exact": [_names(one) for one in reviewed] if request.exact else [],
        }
        reasons = [f"{one.path}: conflict: {one.conflict}" for one in reviewed if one.conflict]
        return shown, reasons

    async def _diff(self, request: messages.Diff, send: Send) -> Result:
        async def tell(some: list[Reviewed]) -> None:
            await send(
                {
                    "files": [diff_json(one) for one in some],
                    "stat": [one.to_json() for one in some],
                    "exact": [_exact(one) for one in some] if request.exact else [],
                    "patch": b"".join(one.text for one in some).decode("latin-1"),
                }
            )
            for one in some:
                one.let_go()

        reviewed, digest = await self._committer.review(
            _raw(request.paths), lambda one: one.render(request.binary), tell
        )
        self._workspace.log.append(
            Event.REVIEW, detail={"digest": digest, "changes": len(reviewed)}
        )
        return {}, []

    async def _export(self, request: messages.Export, send: Send) -> Result:
        count = 0
        async for data in self._committer.export(_raw(request.paths)):
            count += 1
            # A file may be larger than a line should be.
            for start in range(0, len(data), _PART_BYTES):
                part = data[start : start + _PART_BYTES]
                await send(base64.b64encode(part).decode())
        await send(base64.b64encode(archive.END).decode())
        self._workspace.log.append(Event.REVIEW, detail={"changes": count})
        return {"changes": count}, []

    async def _commit(self, request: messages.Commit) -> Result:
        outcome = await self._committer.commit(
            _raw(request.paths),
            message=request.message,
            digest=request.digest,
            placeholders=request.placeholders,
            chosen=request.hunks,
            edited=[(os.fsencode(one.path), _hunk(one)) for one in request.edited],
            also=_raw(request.also),
            everything=request.everything,
            on_conflict=request.on_conflict,
            without_undo=request.without_undo,
        )
        return outcome.to_json(), outcome.warnings

    async def _undo(self, request: messages.Undo) -> Result:
        return await self._committer.undo(request.commit), []

    async def _discard(self, request: messages.Discard) -> Result:
        return {"discarded": await self._committer.discard(_raw(request.paths), request.hunks)}, []

    async def _log(self, _request: messages.Log) -> Result:
        return [commit.to_json() for commit in self._workspace.commits.all()], []

    async def _show(self, request: messages.Show) -> Result:
        commit, files, patch = self._workspace.commits.show(request.commit)
        return {**commit.to_json(), "files": files, "patch": patch.decode("latin-1")}, []

    async def _scan(self, request: messages.Scan) -> Result:
        found: list[dict[str, Any]] = []
        for forms in _raw(request.paths):
            projection, place = self._workspace.resolve(forms)
            host_path = projection.source.host_path(place)
            shown_as = projection.mount_path(place)
            work = partial(scan_path, self._workspace.redactor, host_path, shown_as=shown_as)
            found += await trio.to_thread.run_sync(work)
        return found, []

    async def _configure(self, request: messages.Configure) -> Result:
        changes = request.model_dump(exclude={"op"}, exclude_none=True)
        self._workspace.configure(changes)
        return changes, []

    async def _flush(self, _request: messages.FlushAudit) -> Result:
        try:
            await trio.to_thread.run_sync(self._workspace.log.flush)
        except AuditError as error:
            raise GrantfsError(f"the log cannot be written: {error}") from error
        return {}, []
