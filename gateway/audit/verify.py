"""Checking a log from its files and the public key alone, while it is written or at rest.

What is found: an entry that was changed, dropped, inserted or moved anywhere before the last
signed checkpoint; entries cut off so that a signed checkpoint is missing its entry; a checkpoint
that was changed; tables or triggers that are not ours. What is not: entries cut off or rewritten
after the last checkpoint, or a whole older copy put in place, unless the caller kept an `anchor`.

Rows are streamed: memory does not grow with the log. Nothing is changed; anyone may call it.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.audit.chain import FORMAT, Head, Link, checkpoint_message, genesis, linker
from gateway.audit.errors import AuditError
from gateway.audit.reader import open_readonly, wal_path
from gateway.audit.store import SCHEMA

_ENTRIES: Final = (
    "SELECT seq, time, CAST(event AS BLOB), path, CAST(body AS BLOB), hash"
    " FROM entries ORDER BY seq"
)
_CHECKPOINTS: Final = "SELECT seq, time, hash, signature FROM checkpoints ORDER BY seq"

_Checkpoint: TypeAlias = tuple[int, int, bytes, bytes | None]


@dataclass(frozen=True, slots=True)
class Verification:
    """What a verification found.

    `entries`, `checkpoints`: how many were found good, up to the first fault. `first_bad_seq`: the
    first entry that is wrong or missing; None if all is well or the fault is not in an entry.
    `why`: the fault in a sentence, or None. `unsigned`: good entries after the last checkpoint
    that a signature was checked for; without a public key, all. `head`: the last good entry, to
    be kept elsewhere and given back as the anchor.
    """

    ok: bool
    entries: int
    checkpoints: int
    first_bad_seq: int | None
    why: str | None
    unsigned: int
    head: Head | None


class _Fault(Exception):
    def __init__(self, seq: int | None, why: str) -> None:
        super().__init__(why)
        self.seq = seq
        self.why = why


def verify(folder: Path, public_key: bytes | None, *, anchor: Head | None = None) -> Verification:
    """Check the log in `folder`.

    `public_key`: the 32 raw bytes of the Ed25519 key; None checks the chain alone, which a
    rewriter can compute anew. `anchor`: a head seen earlier, which the log must still contain.
    Raises AuditError if there is no log or its version is unknown, ValueError for a malformed key.
    """
    key = None if public_key is None else Ed25519PublicKey.from_public_bytes(public_key)
    at_rest = not wal_path(folder).exists()
    found = _verify(folder, key, anchor)
    if not found.ok and at_rest and wal_path(folder).exists():
        # A daemon started while the file was read as one that nobody writes.
        found = _verify(folder, key, anchor)
    return found


def _verify(folder: Path, key: Ed25519PublicKey | None, anchor: Head | None) -> Verification:
    with open_readonly(folder) as connection:
        # One transaction, so that entries and checkpoints are of one instant.
        connection.execute("BEGIN")
        check = _Check(connection, key, anchor)
        try:
            check.run()
        except _Fault as fault:
            return check.result(fault)
        except sqlite3.DatabaseError as error:
            return check.result(_Fault(check.head.seq + 1, f"the file is damaged: {error}"))
        return check.result(None)


class _Check:
    """One pass over one log; holds how far it came."""

    def __init__(
        self, connection: sqlite3.Connection, key: Ed25519PublicKey | None, anchor: Head | None
    ) -> None:
        self._db = connection
        self._key = key
        self._anchor = anchor
        self._log_id = b""
        self.head = Head(0, b"")
        self._checkpoints = 0
        self._signed = 0

    def run(self) -> None:
        self._check_tables()
        self._log_id = self._read_log_id()
        self.head = genesis(self._log_id)
        link = linker(self._log_id)
        rows = self._db.execute(_ENTRIES)
        if self._anchor is not None:
            self._check_anchor(self._anchor)
        for checkpoint in self._db.execute(_CHECKPOINTS):
            self._check_signature(checkpoint)
            self._follow(rows, link, checkpoint)
            self._checkpoints += 1
            if self._key is not None:
                self._signed = self.head.seq
        self._follow(rows, link, None)

    def result(self, fault: _Fault | None) -> Verification:
        return Verification(
            ok=fault is None,
            entries=self.head.seq,
            checkpoints=self._checkpoints,
            first_bad_seq=fault.seq if fault else None,
            why=fault.why if fault else None,
            unsigned=self.head.seq - self._signed,
            head=self.head if self._log_id else None,
        )

    def _check_tables(self) -> None:
        # A view, a trigger or an index could show a filtered query other rows than this one.
        found = {row[0] for row in self._db.execute("SELECT sql FROM sqlite_schema")}
        if found != set(SCHEMA):
            raise _Fault(None, "the log's tables or triggers are not those that grantfs makes")

    def _read_log_id(self) -> bytes:
        rows = self._db.execute("SELECT id, format FROM log").fetchall()
        if len(rows) != 1:
            raise _Fault(None, f"the log has {len(rows)} identities instead of one")
        log_id, form = rows[0]
        if form != FORMAT:
            raise AuditError(
                f"the log has entries of format {form}, not {FORMAT}",
                "use the version of grantfs that wrote it",
            )
        return bytes(log_id)

    def _check_anchor(self, anchor: Head) -> None:
        if anchor.seq == 0:
            found: bytes | None = self.head.hash
        else:
            row = self._db.execute("SELECT hash FROM entries WHERE seq = ?", (anchor.seq,))
            found = (row.fetchone() or (None,))[0]
        if found is None:
            raise _Fault(anchor.seq, f"entry {anchor.seq}, which was seen earlier, is missing")
        if found != anchor.hash:
            raise _Fault(anchor.seq, f"entry {anchor.seq} is not the one that was seen earlier")

    def _check_signature(self, checkpoint: _Checkpoint) -> None:
        seq, time, digest, signature = checkpoint
        if self._key is None:
            return
        where = f"the checkpoint at entry {seq}"
        if signature is None:
            raise _Fault(None, f"{where} is not signed")
        try:
            message = checkpoint_message(self._log_id, Head(seq, digest), time)
            self._key.verify(signature, message)
        except (InvalidSignature, TypeError, struct.error):
            raise _Fault(None, f"{where} is not signed by this workspace's key") from None

    def _follow(
        self,
        rows: Iterator[tuple[int, int, bytes, bytes | None, bytes, bytes]],
        link: Link,
        checkpoint: _Checkpoint | None,
    ) -> None:
        """Check the entries up to the checkpoint's, or to the end if there is none left."""
        start = last = self.head.seq
        digest = self.head.hash
        stop = None if checkpoint is None else checkpoint[0]
        try:
            while last != stop:
                row = next(rows, None)
                if row is None:
                    if stop is None:
                        return
                    raise _Fault(
                        last + 1,
                        f"entry {last + 1} is missing: the log ends before the checkpoint"
                        f" at entry {stop}",
                    )
                seq, time, event, path, body, stored = row
                if seq != last + 1:
                    if seq <= last:
                        raise _Fault(seq, f"entry {seq} was inserted")
                    raise _Fault(last + 1, f"entry {last + 1} is missing")
                try:
                    computed = link(digest, seq, time, event, path, body)
                except (TypeError, struct.error):  # a column of another type, by editing the file
                    computed = b""
                if computed != stored:
                    raise _Fault(seq, f"entry {seq} is not the one that was written there")
                last, digest = seq, computed
            if checkpoint is not None and digest != checkpoint[2]:
                last, digest = start, self.head.hash
                raise _Fault(
                    start + 1,
                    f"entries {start + 1} to {stop} were rewritten: they do not lead to the"
                    f" checkpoint at entry {stop}",
                )
        finally:
            self.head = Head(last, digest)
