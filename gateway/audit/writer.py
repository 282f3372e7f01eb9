"""The daemon's end of the log: `AuditLog`, a queue and the one thread that empties it.

Promises:
- `append` costs its caller microseconds and never waits for the disk. What does not fit into the
  queue is counted, and a `gap` entry says how many are missing and since when.
- `append_durable` and `submit_durable` are done only when the entry and all before it are on the
  disk. An entry whose caller was told that it failed is not written later.
- While the log can't be written `failed` says why, durable appends raise, and the rest waits in
  the queue; when it can be written again a `gap` entry marks the time.
- No entry stays without a signed checkpoint for longer than `checkpoint_seconds`.

Any thread may call any method. Make it after the daemon has forked: a thread does not survive that.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import sqlite3
import threading
import time as wall
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Final

from gateway.audit import reader
from gateway.audit.chain import Head, checkpoint_message, linker
from gateway.audit.codec import encode_body
from gateway.audit.errors import AuditError
from gateway.audit.events import Actor, Event, Offered, Record
from gateway.audit.inbox import Batch, Entry, Gap, Inbox
from gateway.audit.store import EntryRow, Store

QUEUE_LIMIT: Final = 32768
"""Entries that may wait, some 15 MB: a disk that stalls for a second under 30,000 opens."""

LINGER: Final = 0.02
"""Seconds that the writer waits for more before it writes what need not be durable."""

CHECKPOINT_EVERY: Final = 1000
"""Entries without a checkpoint that bring one: a rewritten chain is placed within 1999."""

CHECKPOINT_SECONDS: Final = 10.0

_SIGN_DURABLE_AFTER: Final = 1.0  # seconds from one checkpoint to the next that a decision brings
_SLICE: Final = 1000  # entries a transaction
_PROBE: Final = 100  # the same, while the log can't be written
_ROWS: Final = 32  # entries a statement: some 0.3 ms without giving up the interpreter lock

_log = logging.getLogger(__name__)


class AuditLog:
    """The log of one workspace, open for writing."""

    def __init__(
        self,
        folder: Path,
        sign: Callable[[bytes], bytes] | None,
        *,
        clock: Callable[[], int] = wall.time_ns,
        create: bool = True,
        on_full: Callable[[], bool] = lambda: False,
        queue_limit: int = QUEUE_LIMIT,
        linger: float = LINGER,
        checkpoint_every: int = CHECKPOINT_EVERY,
        checkpoint_seconds: float = CHECKPOINT_SECONDS,
    ) -> None:
        """Open or make the log in `folder`, which exists and is 0700.

        `sign`: Ed25519 over the bytes it is given, called in the writer's thread; None leaves
        checkpoints unsigned. `clock`: ns since 1970 UTC. `create` False refuses a missing log,
        as a workspace that has state must. `on_full`, called in the writer's thread when the disk
        is full, returns True if it made room and the write is worth another try. Raises AuditError.
        """
        self._folder = folder
        self._sign = sign
        self._on_full = on_full
        self._clock = clock
        self._linger = linger
        self._checkpoint_every = checkpoint_every
        self._checkpoint_seconds = checkpoint_seconds
        self._store = Store(folder, clock() // 1000, create=create)
        self._link = linker(self._store.log_id)

        self._inbox = Inbox(queue_limit, clock)
        self._watchers: list[Callable[[int], None]] = []
        self._failed: Exception | None = None
        self._close_error: AuditError | None = None

        # The writer thread's own.
        self._pending: deque[Entry] = deque()
        self._signed_at = wall.monotonic()
        self._unsigned_since: float | None = None

        head, signed = self._store.head, self._store.signed or 0
        if head.seq > signed or self._store.unclean:
            self.append(
                Event.LOG_RECOVERED, detail={"unsigned": head.seq - signed, "signed_seq": signed}
            )
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    @property
    def failed(self) -> Exception | None:
        """Why the log can't be written just now; None while it can."""
        return self._failed

    @property
    def head(self) -> Head:
        """The last committed entry; kept elsewhere, it is an anchor for `verify`."""
        return self._store.head

    def append(
        self,
        event: Event,
        *,
        outcome: str = "ok",
        subject: str | None = None,
        actor: Actor | None = None,
        path: bytes | None = None,
        grant: str | None = None,
        detail: Offered | None = None,
    ) -> bool:
        """Queue an entry; False if there was no room and it was counted in a gap instead.

        Raises EventError if the event does not declare what it is given, AuditError after close.
        """
        return self._inbox.put((event, outcome, subject, actor, path, grant, detail))

    def submit_durable(
        self,
        event: Event,
        *,
        outcome: str = "ok",
        subject: str | None = None,
        actor: Actor | None = None,
        path: bytes | None = None,
        grant: str | None = None,
        detail: Offered | None = None,
    ) -> Future[int]:
        """Queue an entry; the future gives its seq once it is on the disk, or AuditError.

        It has a place even when the queue is full. The future's callbacks run in the writer's
        thread and must only pass the news on. Raises as `append`.
        """
        return self._inbox.put_durable((event, outcome, subject, actor, path, grant, detail))

    def append_durable(
        self,
        event: Event,
        *,
        outcome: str = "ok",
        subject: str | None = None,
        actor: Actor | None = None,
        path: bytes | None = None,
        grant: str | None = None,
        detail: Offered | None = None,
    ) -> int:
        """Write an entry and return its seq once it is on the disk: blocks, so not for trio tasks.

        Raises AuditError if it can't be written; then it is not in the log.
        """
        return self._inbox.put_durable(
            (event, outcome, subject, actor, path, grant, detail)
        ).result()

    def flush(self) -> None:
        """Wait until all that was queued before is in the file, for readers to see.

        It is then safe from a crash of the daemon, not of the machine. Raises AuditError.
        """
        self._inbox.put_flush().result()

    def close(self) -> None:
        """Write what is queued, sign a last checkpoint, let go of the file. Twice is harmless.

        Raises AuditError if something queued could not be written; the file is let go of then too.
        """
        self._inbox.close()
        self._thread.join()
        if self._close_error is not None:
            raise self._close_error

    def watch(self, callback: Callable[[int], None]) -> Callable[[], None]:
        """Call `callback` with the last seq after every write; returns what ends that.

        It runs in the writer's thread: it must not block nor call the log, only pass the news on
        to whoever then reads what follows the seq it has. One that raises is dropped.
        """
        self._watchers.append(callback)

        def end() -> None:
            with contextlib.suppress(ValueError):
                self._watchers.remove(callback)

        return end

    def read(
        self,
        *,
        after: int = 0,
        since: datetime | None = None,
        events: Collection[Event] | None = None,
        path: bytes | None = None,
        limit: int | None = None,
        newest: bool = False,
    ) -> Iterator[Record]:
        """`reader.read` of this log, with everything queued so far unless the log has failed."""
        if self._failed is None:
            self.flush()
        return reader.read(
            self._folder,
            after=after,
            since=since,
            events=events,
            path=path,
            limit=limit,
            newest=newest,
        )

    # From here on: the writer's thread.

    def _run(self) -> None:
        while True:
            self._inbox.wait(self._patience(), self._linger, broken=self._failed is not None)
            batch = self._inbox.take()
            self._write(batch)
            self._answer(batch)
            if batch.closing:
                break
        self._store.close(clean=self._failed is None)

    def _patience(self) -> float | None:
        """Seconds until a checkpoint is due even if nobody appends; None: never."""
        if self._unsigned_since is None:
            return None
        return max(0.0, self._unsigned_since + self._checkpoint_seconds - wall.monotonic())

    def _write(self, batch: Batch) -> None:
        """Write all of the batch, in transactions of bounded size, or keep what is left of it."""
        entries = self._pending
        entries.extend(batch.entries)
        batch.entries.clear()
        if batch.gap is not None:
            entries.append(batch.gap.entry(self._clock() // 1000))
        try:
            try:
                self._write_all(entries, batch.closing)
            except Exception as error:
                self._store.rollback()
                if not _is_full(error) or not self._on_full():
                    raise
                self._write_all(entries, batch.closing)
        except Exception as error:  # whatever it is: the thread that durable appends wait for stays
            self._store.rollback()
            self._keep(batch.gap, error)
        self._inbox.settle(len(entries))

    def _write_all(self, entries: deque[Entry], closing: bool) -> None:
        while True:
            part = list(islice(entries, _SLICE if self._failed is None else _PROBE))
            last = closing and len(part) == len(entries)
            if part or self._checkpoint_due(self._store.head, False, last):
                self._write_slice(part, last)
            # A few at a time: to free 30,000 entries at once holds up every thread for 3 ms.
            for _ in part:
                entries.popleft()
            if not entries:
                break

    def _write_slice(self, part: list[Entry], last: bool) -> None:
        store = self._store
        durable = last or any(done is not None for _, _, done in part)
        store.begin(durable=durable)
        head = store.head
        waiting: list[tuple[Future[int], int]] = []
        for start in range(0, len(part), _ROWS):
            rows, head = self._chain(part[start : start + _ROWS], head, waiting)
            store.insert(rows)
        signed = store.signed
        if self._checkpoint_due(head, durable, last):
            self._sign_head(head)
            signed = head.seq
        store.commit(head, signed)
        if self._failed is not None:
            self._failed = None
            _log.warning("the audit log can be written again")
        now = wall.monotonic()
        if signed == head.seq:
            self._signed_at, self._unsigned_since = now, None
        elif self._unsigned_since is None:
            self._unsigned_since = now
        for done, seq in waiting:
            done.set_result(seq)
        if part:
            self._tell_watchers(head.seq)

    def _chain(
        self, entries: list[Entry], head: Head, waiting: list[tuple[Future[int], int]]
    ) -> tuple[list[EntryRow], Head]:
        rows: list[EntryRow] = []
        seq, digest = head.seq, head.hash
        for time, fields, done in entries:
            seq += 1
            event = fields[0]
            path, body = encode_body(*fields)
            digest = self._link(digest, seq, time, event.encode(), path, body.encode())
            rows.append((seq, time, event.value, path, body, digest))
            if done is not None:
                waiting.append((done, seq))
        return rows, Head(seq, digest)

    def _checkpoint_due(self, head: Head, durable: bool, last: bool) -> bool:
        unsigned = head.seq - (self._store.signed or 0)
        if not unsigned:
            return False
        if last or unsigned >= self._checkpoint_every:
            return True
        now = wall.monotonic()
        if durable and now >= self._signed_at + _SIGN_DURABLE_AFTER:
            return True
        since = self._unsigned_since
        return since is not None and now >= since + self._checkpoint_seconds

    def _sign_head(self, head: Head) -> None:
        now = self._clock() // 1000
        signature = None
        if self._sign is not None:
            signature = self._sign(checkpoint_message(self._store.log_id, head, now))
        self._store.insert_checkpoint((head.seq, now, head.hash, signature))

    def _keep(self, gap: Gap | None, error: Exception) -> None:
        """After a failure: refuse those who wait, keep the rest for the next attempt."""
        if self._failed is None:
            _log.error("the audit log can't be written: %s", _name(error))
        self._failed = error
        if gap is not None:
            self._pending.pop()
        refused = [done for _, _, done in self._pending if done is not None]
        kept = [entry for entry in self._pending if entry[2] is None]
        self._pending.clear()
        self._pending.extend(kept)
        self._inbox.lose(len(refused), _name(error), gap)
        for done in refused:
            done.set_exception(_unwritable(error))

    def _answer(self, batch: Batch) -> None:
        if batch.closing and self._failed is not None:
            lost = len(self._pending)
            self._close_error = _unwritable(self._failed, f"; {lost} events were not written")
        for done in batch.flushes:
            if self._failed is None:
                done.set_result(None)
            else:
                done.set_exception(_unwritable(self._failed))

    def _tell_watchers(self, seq: int) -> None:
        for callback in tuple(self._watchers):
            try:
                callback(seq)
            except Exception:
                _log.exception("a watcher of the audit log failed and is dropped")
                with contextlib.suppress(ValueError):
                    self._watchers.remove(callback)


def _unwritable(error: Exception, more: str = "") -> AuditError:
    failure = AuditError(
        f"the audit log can't be written: {error}{more}",
        "free space on the disk that holds the workspace's state; nothing is allowed meanwhile",
    )
    failure.__cause__ = error
    return failure


def _is_full(error: Exception) -> bool:
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", "") == "SQLITE_FULL"
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)


def _name(error: Exception) -> str:
    """The kind of error without its text, which may name host paths."""
    if isinstance(error, sqlite3.Error):
        return getattr(error, "sqlite_errorname", None) or type(error).__name__
    if isinstance(error, OSError) and error.errno is not None:
        return errno.errorcode.get(error.errno, str(error.errno))
    return type(error).__name__
