"""The queue between those who report events and the writer's thread.

Promises: putting something in costs microseconds and never waits for the writer; entries come out
in the order they went in; what finds no room is counted, with the times between which it was lost.

The lock is never held for longer than a few assignments. `put`, `put_durable`, `put_flush`,
`close` are for any thread; `wait`, `take` and `settle` for the writer's alone.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final, TypeAlias

from gateway.audit.errors import AuditError
from gateway.audit.events import Actor, Event, Offered, check, rfc3339

Fields: TypeAlias = tuple[
    Event, str, str | None, Actor | None, bytes | None, str | None, Offered | None
]
"""event, outcome, subject, actor, path, grant, detail: what `check` and `encode_body` take."""

Entry: TypeAlias = tuple[int, Fields, "Future[int] | None"]
"""µs since 1970 UTC, the fields, and who waits for it to be durable."""

RETRY: Final = 1.0
"""Seconds between attempts while the log can't be written."""


@dataclass(slots=True)
class Gap:
    """Events that were lost and that no entry tells of yet. Times are µs since 1970 UTC."""

    since: int
    until: int
    why: str
    dropped: int = 0
    error: str | None = None

    def entry(self, now: int) -> Entry:
        detail: dict[str, str | int | bool | bytes | None] = {
            "dropped": self.dropped,
            "since": rfc3339(self.since),
            "until": rfc3339(self.until),
            "why": self.why,
            "error": self.error,
        }
        return now, (Event.GAP, "failed", None, None, None, None, detail), None


@dataclass(frozen=True, slots=True)
class Batch:
    """What the writer takes at once. The gap came after all the entries."""

    entries: deque[Entry]
    gap: Gap | None
    flushes: list[Future[None]]
    closing: bool


class Inbox:
    """At most `limit` entries, those that the writer holds included; `clock` gives ns."""

    def __init__(self, limit: int, clock: Callable[[], int]) -> None:
        self._limit = limit
        self._clock = clock
        self._lock = threading.Lock()
        self._queue: deque[Entry] = deque()
        self._flushes: list[Future[None]] = []
        self._gap: Gap | None = None
        self._held = 0
        self._urgent = False
        self._closing = False
        self._sleeping = False
        self._wake = threading.Event()
        self._hurry = threading.Event()

    def put(self, fields: Fields) -> bool:
        """Queue an entry; False if it was counted as lost. Raises EventError, AuditError."""
        check(*fields)
        detail = fields[6]
        if detail:
            fields = (*fields[:6], dict(detail))
        with self._lock:
            if self._closing:
                raise AuditError("the log is closed")
            now = self._clock() // 1000
            if len(self._queue) + self._held >= self._limit:
                self._lose(now, 1, "overload")
                return False
            self._queue.append((now, fields, None))
            wake, self._sleeping = self._sleeping, False
        if wake:
            self._wake.set()
        return True

    def put_durable(self, fields: Fields) -> Future[int]:
        """Queue an entry, even beyond the limit: its caller waits, so there are few of them."""
        check(*fields)
        detail = fields[6]
        if detail:
            fields = (*fields[:6], dict(detail))
        done: Future[int] = Future()
        done.set_running_or_notify_cancel()  # what is queued can't be taken back
        with self._lock:
            if self._closing:
                raise AuditError("the log is closed")
            self._queue.append((self._clock() // 1000, fields, done))
            self._urgent = True
        self._rouse()
        return done

    def put_flush(self) -> Future[None]:
        """What is done when all that was put before is written."""
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            if self._closing:
                raise AuditError("the log is closed")
            self._flushes.append(done)
            self._urgent = True
        self._rouse()
        return done

    def close(self) -> None:
        """Take nothing more; the next batch is the last."""
        with self._lock:
            self._closing = True
            self._urgent = True
        self._rouse()

    def wait(self, patience: float | None, linger: float, *, broken: bool) -> None:
        """Return when there is something to take, or after `patience` seconds (None: for ever).

        It lingers for more to come unless someone waits for it. While the log is `broken` it
        pauses instead, so that a stream of appends does not make a stream of attempts.
        """
        with self._lock:
            idle = not self._queue and not self._urgent
            self._sleeping = idle and not broken
        if idle and not broken:
            self._wake.wait(patience)
        self._wake.clear()
        self._hurry.wait(RETRY if broken else linger)
        self._hurry.clear()

    def take(self) -> Batch:
        """All there is. The entries count against the limit until `settle`."""
        with self._lock:
            batch = Batch(self._queue, self._gap, self._flushes, self._closing)
            self._queue, self._gap, self._flushes = deque(), None, []
            self._held += len(batch.entries)
            self._urgent = self._sleeping = False
        return batch

    def settle(self, held: int) -> None:
        """Tell how many entries the writer still holds."""
        with self._lock:
            self._held = held

    def lose(self, dropped: int, error: str, gap: Gap | None) -> None:
        """Count what an unwritable log lost, on top of `gap`, which it could not write either."""
        now = self._clock() // 1000
        with self._lock:
            self._lose(now, dropped, "unwritable", error)
            if gap is not None and self._gap is not None:
                self._gap.since = gap.since
                self._gap.dropped += gap.dropped

    def _lose(self, now: int, dropped: int, why: str, error: str | None = None) -> None:
        # Under the lock. Being unwritable explains more than the overload that it brings.
        gap = self._gap
        if gap is None:
            gap = self._gap = Gap(now, now, why)
        gap.dropped += dropped
        gap.until = now
        if error is not None:
            gap.why, gap.error = why, error

    def _rouse(self) -> None:
        self._hurry.set()
        self._wake.set()
