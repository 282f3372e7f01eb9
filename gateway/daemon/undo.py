"""Taking a commit back out of the sources: itself a commit, whole or not at all.

It is the user's own doing: no grant is asked for, and the stage is not touched. Where a source is
not as the commit left it, nothing is done.
"""

import os
from functools import partial
from typing import Any

import trio

from gateway import clock
from gateway.audit.events import Event, show_name
from gateway.commit.batch import Batch
from gateway.commit.history import Commit, CommitStore, PendingSource
from gateway.commit.images import Image, Keeper
from gateway.commit.reverse import Reversal, changed
from gateway.commit.steps import Hands, MovedError, Step
from gateway.daemon.clearing import clear_away
from gateway.daemon.workspace import Workspace
from gateway.errors import ConflictError, GrantfsError, NotFoundError
from gateway.review.reverse import reverse_files, reverse_patch
from vfs import names
from vfs.source import Source
from vfs.stage.settle import Touched


class Undoing:
    """One undo, of the commit that *prefix* names, or of the newest that is not undone."""

    def __init__(self, workspace: Workspace, prefix: str | None) -> None:
        self._workspace = workspace
        self._history = workspace.commits
        self._digest_key = workspace.keys.derive("digest")
        self._of = self._find(prefix)
        message = f"undo of {self._of.id}"
        self._commit = Commit(
            CommitStore.new_id(), clock.now(), message, list(self._of.paths), self._of.id
        )
        self._journal: list[PendingSource] = []
        self._batches: list[Batch] = []
        self._landed = False

    def _find(self, prefix: str | None) -> Commit:
        """The commit that is meant. Raises NotFoundError, GrantfsError."""
        everything = self._history.all()
        undone = _undone(everything)
        if prefix is None:
            for commit in everything:
                if commit.undoes is None and commit.id not in undone:
                    found = commit
                    break
            else:
                raise NotFoundError("there is no commit to undo: `grantfs log` lists them")
        else:
            found = self._history.find(prefix)
        if found.id in undone:
            raise ConflictError(f"{found.id} is undone already, by {undone[found.id]}")
        if found.id not in {commit.id for commit in self._history.undoable()}:
            raise GrantfsError(
                f"{found.id} cannot be undone any more: what it replaced was not kept, or not for"
                " so long (`grantfs up --undo-limit SIZE --undo-days N`)"
            )
        return found

    async def run(self) -> tuple[dict[str, object], Touched]:
        """Do it. Returns the object of `undo`, and what the kernel has to look at anew.

        Raises GrantfsError, after which every source is as it was.
        """
        await self._note("intent")
        with trio.CancelScope(shield=True):
            try:
                conflicts = await trio.to_thread.run_sync(self._open)
                if not conflicts:
                    await trio.to_thread.run_sync(self._work)
                    self._mark()
                    await trio.to_thread.run_sync(
                        clear_away, self._workspace, self._commit.id, self._batches
                    )
            except MovedError as error:
                await trio.to_thread.run_sync(self._take_back)
                raise ConflictError(f"nothing was undone: {error}") from error
            except OSError as error:
                await trio.to_thread.run_sync(self._take_back)
                raise GrantfsError(f"nothing was undone: {error.strerror or error}") from error
            except BaseException:
                await trio.to_thread.run_sync(self._take_back)
                raise
            finally:
                for batch in self._batches:
                    batch.hands.source.close()
                for projection in self._workspace.projections.values():
                    projection.source.look_again()
        restored = [] if conflicts else self._of.paths
        await self._note("conflict" if conflicts else "done", len(restored), len(conflicts))
        outcome: dict[str, object] = {
            "undone": None if conflicts else self._of.id,
            "commit": None if conflicts else self._commit.id,
            "restored": restored,
            "conflicts": conflicts,
        }
        return outcome, Touched() if conflicts else self._touched()

    async def _note(self, phase: str, restored: int = 0, conflicts: int = 0) -> None:
        detail: dict[str, Any] = {
            "commit": self._commit.id, "undoes": self._of.id, "phase": phase,
            "restored": restored, "conflicts": conflicts,
        }  # fmt: skip
        written = self._workspace.log.submit_durable(Event.UNDO, detail=detail)
        await trio.to_thread.run_sync(written.result)

    # -- in a worker thread ----------------------------------------------------------------

    def _open(self) -> list[str]:
        """Open the sources; paths in the mount that are not as the commit left them."""
        conflicts = []
        self._journal = self._history.journal(self._of.id)
        for one in self._journal:
            source = self._open_source(one)
            batch = Batch(source, self._commit.id, len(one.steps))
            self._batches.append(batch)
            for path in changed(Hands(source), one.steps, one.kept, self._digest_key):
                conflicts.append(show_name(one.name if one.is_file else names.join(one.name, path)))
        return conflicts

    def _open_source(self, one: PendingSource) -> Source:
        try:
            return self._workspace.open_for_commit(one)
        except OSError as error:
            where = os.fsdecode(one.root)
            raise GrantfsError(
                f"nothing was undone: {where} is out of reach: {error.strerror}"
            ) from error

    def _work(self) -> None:
        history, images = self._history, self._workspace.images
        pending = [
            PendingSource(one.name, one.root, one.shown, one.is_file, one.ino, one.folders)
            for one in self._journal
        ]
        history.begin(self._commit, pending)
        planned: list[list[Step]] = []
        for one, batch in zip(self._journal, self._batches, strict=True):
            reversal = Reversal(
                batch, one.steps, one.kept, partial(images.fill, self._of.id), self._target
            )
            planned.append(reversal.steps())
            batch.sync_files()
        files, patch = history.show(self._of.id)[1:]
        history.describe(self._commit, reverse_files(files), reverse_patch(patch))
        writer = images.write(self._commit.id)
        try:
            for number, (steps, batch) in enumerate(zip(planned, self._batches, strict=True)):
                kept = Keeper(batch.hands, writer, self._digest_key).keep(steps)
                history.intend(self._commit.id, number, steps, kept)
            writer.close()
        except BaseException:
            writer.abandon()
            raise
        history.keep(self._commit.id)
        for steps, batch in zip(planned, self._batches, strict=True):
            batch.perform(steps)
            batch.sync()

    def _target(self, image: Image) -> bytes:
        return b"".join(self._workspace.images.read(self._of.id, image))

    def _take_back(self) -> None:
        if self._landed:
            return
        for batch in reversed(self._batches):
            batch.undo()
        self._workspace.images.remove(self._commit.id)
        self._history.finish(self._commit.id, landed=False)

    # -- on the core's task ----------------------------------------------------------------

    def _mark(self) -> None:
        """The moment that decides."""
        fs = self._workspace.fs
        with fs.tree.transaction():
            fs.store.note_landed(self._commit.id)
        self._landed = True

    def _touched(self) -> Touched:
        """All that the kernel may hold of the places that changed."""
        touched = Touched()
        changed = {
            (one.root, path) for one, batch in zip(self._journal, self._batches, strict=True)
            for path in batch.hands.touched
        }  # fmt: skip
        for node in list(self._workspace.fs.nodes.by_ino.values()):
            source = node.projection.source
            folder = node if node.is_folder else node.parent
            if folder is None or (source.root, folder.place) not in changed:
                continue
            touched.numbers.add(node.ino)
            if node.parent is not None:
                touched.entries.append((node.parent.ino, node.name))
        return touched


def _undone(commits: list[Commit]) -> dict[str, str]:
    """Commits that are undone, with what undid them; an undo that is undone does not count."""
    found: dict[str, str] = {}
    for commit in commits:  # the newest first
        if commit.undoes is not None and commit.id not in found:
            found[commit.undoes] = commit.id
    return found
