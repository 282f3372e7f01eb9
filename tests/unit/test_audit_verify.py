"""Promise 8: changing, dropping or reordering any event is detected, and the place is named."""

from __future__ import annotations

import hashlib
import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit import AuditError, AuditLog, Event, verify
from gateway.audit.chain import Head, checkpoint_message, genesis, linker
from gateway.audit.store import SCHEMA

COUNT = 30
EVERY = 10
KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
PLACES = [1, 2, 15, 20, COUNT - 1, COUNT]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed log of COUNT entries with a signed checkpoint after every EVERY."""
    write(tmp_path, COUNT)
    return tmp_path


def write(folder: Path, count: int) -> None:
    log = AuditLog(folder, KEY.sign, linger=0, checkpoint_every=EVERY)
    for number in range(count):
        log.append(Event.OPEN, path=b"proj/%d" % number, detail={"size": number})
        if number % EVERY == EVERY - 1:
            log.flush()
    log.close()


@contextmanager
def tampering(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection without the triggers, which are put back as they were."""
    with closing(sqlite3.connect(folder / "audit.db", isolation_level=None)) as db:
        for statement in SCHEMA:
            if statement.startswith("CREATE TRIGGER"):
                db.execute(f"DROP TRIGGER {statement.split()[2]}")
        yield db
        for statement in SCHEMA:
            if statement.startswith("CREATE TRIGGER"):
                db.execute(statement)


def first_bad(folder: Path) -> int | None:
    found = verify(folder, PUBLIC)
    assert not found.ok
    assert found.why
    return found.first_bad_seq


def test_an_untouched_log_verifies(folder: Path) -> None:
    found = verify(folder, PUBLIC)
    assert found.ok, found.why
    assert (found.entries, found.checkpoints, found.unsigned) == (COUNT, COUNT // EVERY, 0)
    assert found.first_bad_seq is None


CHANGES = {
    "time": "time + 1",
    "event": "'refuse'",
    "path": "CAST('proj/x' AS BLOB)",
    "body": "replace(body, 'ok', 'failed')",
    "hash": "zeroblob(32)",
}


@pytest.mark.parametrize("seq", PLACES)
@pytest.mark.parametrize("column", CHANGES)
def test_a_changed_column_is_named(folder: Path, column: str, seq: int) -> None:
    with tampering(folder) as db:
        changed = db.execute(f"UPDATE entries SET {column} = {CHANGES[column]} WHERE seq = {seq}")
        assert changed.rowcount == 1
    assert first_bad(folder) == seq


def test_a_path_moved_between_null_and_empty_is_named(folder: Path) -> None:
    with tampering(folder) as db:
        db.execute("UPDATE entries SET path = NULL WHERE seq = 7")
    assert first_bad(folder) == 7


@pytest.mark.parametrize("seq", PLACES)
def test_a_dropped_entry_is_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        db.execute("DELETE FROM entries WHERE seq = ?", (seq,))
    assert first_bad(folder) == seq


@pytest.mark.parametrize("seq", PLACES)
def test_an_entry_dropped_with_the_rest_renumbered_is_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        db.execute("DELETE FROM entries WHERE seq = ?", (seq,))
        for later in range(seq + 1, COUNT + 1):
            db.execute("UPDATE entries SET seq = seq - 1 WHERE seq = ?", (later,))
    assert first_bad(folder) == seq


@pytest.mark.parametrize("seq", [*PLACES, COUNT + 1])
def test_an_inserted_entry_is_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        for later in range(COUNT, seq - 1, -1):
            db.execute("UPDATE entries SET seq = seq + 1 WHERE seq = ?", (later,))
        db.execute(
            "INSERT INTO entries SELECT ?, time + 1, event, path, body, hash FROM entries"
            " WHERE seq = (SELECT min(seq) FROM entries WHERE seq != ?)",
            (seq, seq),
        )
    assert first_bad(folder) == seq


@pytest.mark.parametrize("seq", [0, -1])
def test_an_entry_before_the_first_is_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        db.execute(
            "INSERT INTO entries SELECT ?, time, event, path, body, hash FROM entries LIMIT 1",
            (seq,),
        )
    assert first_bad(folder) == seq


@pytest.mark.parametrize("seq", [1, 15, 20, COUNT - 1])
def test_swapped_neighbours_are_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        db.execute("UPDATE entries SET seq = 1000 WHERE seq = ?", (seq,))
        db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (seq, seq + 1))
        db.execute("UPDATE entries SET seq = ? WHERE seq = 1000", (seq + 1,))
    assert first_bad(folder) == seq


@pytest.mark.parametrize("seq", PLACES)
def test_a_truncated_tail_is_named(folder: Path, seq: int) -> None:
    with tampering(folder) as db:
        db.execute("DELETE FROM entries WHERE seq >= ?", (seq,))
    assert first_bad(folder) == seq


def rewrite(folder: Path, start: int, db: sqlite3.Connection) -> None:
    """Compute the chain anew from `start`, as anyone can: it has no key."""
    log_id = db.execute("SELECT id FROM log").fetchone()[0]
    link = linker(log_id)
    previous = db.execute("SELECT hash FROM entries WHERE seq = ?", (start - 1,)).fetchone()
    digest = previous[0] if previous else genesis(log_id).hash
    for seq, time, event, path, body in db.execute(
        "SELECT seq, time, event, path, body FROM entries WHERE seq >= ? ORDER BY seq", (start,)
    ).fetchall():
        digest = link(digest, seq, time, event.encode(), path, body.encode())
        db.execute("UPDATE entries SET hash = ? WHERE seq = ?", (digest, seq))


@pytest.mark.parametrize("seq", PLACES)
def test_a_change_with_the_chain_computed_anew_is_placed_by_the_checkpoint(
    folder: Path, seq: int
) -> None:
    with tampering(folder) as db:
        db.execute("UPDATE entries SET time = time + 1 WHERE seq = ?", (seq,))
        rewrite(folder, seq, db)
    bad = first_bad(folder)
    assert bad is not None
    assert bad <= seq < bad + EVERY


def test_a_rewriter_without_the_key_can_not_make_checkpoints(folder: Path) -> None:
    with tampering(folder) as db:
        db.execute("UPDATE entries SET time = time + 1 WHERE seq = 15")
        rewrite(folder, 15, db)
        db.execute(
            "UPDATE checkpoints SET hash = (SELECT hash FROM entries"
            " WHERE entries.seq = checkpoints.seq)"
        )
    found = verify(folder, PUBLIC)
    assert not found.ok
    assert "not signed by this workspace's key" in (found.why or "")
    # With the chain alone this can't be seen: that is what the key is for.
    assert verify(folder, None).ok


@pytest.mark.parametrize("column", ["time = time + 1", "signature = NULL", "seq = seq - 1"])
def test_a_changed_checkpoint_is_found(folder: Path, column: str) -> None:
    with tampering(folder) as db:
        db.execute(f"UPDATE checkpoints SET {column} WHERE seq = 20")
    assert not verify(folder, PUBLIC).ok


def test_a_log_that_another_key_signed_does_not_verify(folder: Path) -> None:
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw()
    assert not verify(folder, other).ok


def test_entries_of_another_log_do_not_fit(folder: Path) -> None:
    other = folder / "other"
    other.mkdir()
    write(other, COUNT)
    with tampering(folder) as db:
        db.execute("ATTACH ? AS o", (str(other / "audit.db"),))
        db.execute("DELETE FROM entries WHERE seq = 15")
        db.execute("INSERT INTO entries SELECT * FROM o.entries WHERE seq = 15")
        db.execute("DETACH o")
    assert first_bad(folder) == 15


def test_a_checkpoint_of_another_log_does_not_fit() -> None:
    head = Head(5, b"h" * 32)
    assert checkpoint_message(b"a" * 16, head, 1) != checkpoint_message(b"b" * 16, head, 1)


ENTRY = (b"p" * 32, 1, 2, b"open", b"path", b"{}")


@pytest.mark.parametrize(
    "other",
    [
        (b"q" * 32, 1, 2, b"open", b"path", b"{}"),
        (b"p" * 32, 2, 2, b"open", b"path", b"{}"),
        (b"p" * 32, 1, 3, b"open", b"path", b"{}"),
        (b"p" * 32, 1, 2, b"openp", b"ath", b"{}"),
        (b"p" * 32, 1, 2, b"open", b"path{", b"}"),
        (b"p" * 32, 1, 2, b"open", b"", b"path{}"),
    ],
)
def test_no_two_entries_have_one_hash(other: tuple[bytes, int, int, bytes, bytes, bytes]) -> None:
    link = linker(b"a" * 16)
    assert link(*other) != link(*ENTRY)
    assert linker(b"b" * 16)(*ENTRY) != link(*ENTRY)


def test_no_path_and_the_root_have_other_hashes() -> None:
    link = linker(b"a" * 16)
    assert link(b"p" * 32, 1, 2, b"open", None, b"{}") != link(b"p" * 32, 1, 2, b"open", b"", b"{}")


def test_the_format_is_the_one_that_logs_were_written_in() -> None:
    """Built here from docs/audit.md; a change of these bytes needs a new FORMAT."""
    log_id = bytes(range(16))
    first = hashlib.sha256(b"grantfs audit genesis\0" + b"\0\1" + log_id).digest()
    assert genesis(log_id) == Head(0, first)
    lengths = struct.pack(">QqIiI", 1, 2, 4, 3, 2)
    entry = b"grantfs audit entry\0" + b"\0\1" + log_id + first + lengths + b"opena/b{}"
    assert linker(log_id)(first, 1, 2, b"open", b"a/b", b"{}") == hashlib.sha256(entry).digest()
    signed = b"grantfs audit checkpoint\0" + b"\0\1" + log_id + struct.pack(">Qq", 1, 9) + first
    assert checkpoint_message(log_id, Head(1, first), 9) == signed


def test_truncation_back_to_a_checkpoint_is_seen_with_an_anchor(folder: Path) -> None:
    anchor = verify(folder, PUBLIC).head
    assert anchor is not None
    assert verify(folder, PUBLIC, anchor=anchor).ok
    with tampering(folder) as db:
        db.execute("DELETE FROM entries WHERE seq > 20")
        db.execute("DELETE FROM checkpoints WHERE seq > 20")
    found = verify(folder, PUBLIC, anchor=anchor)
    assert not found.ok
    assert found.first_bad_seq == COUNT


def test_a_wrong_anchor_is_found(folder: Path) -> None:
    assert verify(folder, PUBLIC, anchor=Head(3, b"x" * 32)).first_bad_seq == 3


SCHEMES: dict[str, Callable[[sqlite3.Connection], object]] = {
    "index": lambda db: db.execute("CREATE INDEX i ON entries (event)"),
    "trigger": lambda db: db.execute("DROP TRIGGER entries_stay"),
    "view": lambda db: db.executescript(
        "ALTER TABLE entries RENAME TO kept;"
        "CREATE VIEW entries AS SELECT * FROM kept WHERE event <> 'refuse'"
    ),
    "identity": lambda db: db.execute("INSERT INTO log SELECT randomblob(16), 1, 0"),
}


@pytest.mark.parametrize("name", SCHEMES)
def test_other_tables_than_ours_are_found(folder: Path, name: str) -> None:
    with closing(sqlite3.connect(folder / "audit.db", isolation_level=None)) as db:
        SCHEMES[name](db)
    assert not verify(folder, PUBLIC).ok


def test_every_flipped_byte_of_the_entries_is_found_or_unread(folder: Path) -> None:
    """Flip bytes of the file itself; a flip that changes what is read must be found."""
    path = folder / "audit.db"
    good = path.read_bytes()
    with closing(sqlite3.connect(path)) as db:
        before = db.execute("SELECT * FROM entries").fetchall()
    for place in range(4096 + 13, len(good), 97):
        path.write_bytes(good[:place] + bytes([good[place] ^ 0x41]) + good[place + 1 :])
        try:
            if not verify(folder, PUBLIC).ok:
                continue
        except AuditError:
            continue
        with closing(sqlite3.connect(path)) as db:
            assert db.execute("SELECT * FROM entries").fetchall() == before, place


def test_verifying_leaves_a_closed_log_as_it_was(folder: Path) -> None:
    def state() -> dict[str, tuple[int, bytes]]:
        return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}

    before = state()
    assert verify(folder, PUBLIC).ok
    assert state() == before


def test_verifying_while_the_log_is_written(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY.sign)
    log.append_durable(Event.DAEMON_START)
    assert verify(tmp_path, PUBLIC).entries == 1
    log.append_durable(Event.DAEMON_STOP)
    assert verify(tmp_path, PUBLIC).entries == 2
    log.close()


def test_without_a_log_there_is_nothing_to_verify(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no log"):
        verify(tmp_path, PUBLIC)


def test_a_log_without_a_key_says_that_nothing_is_signed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, None)
    log.append(Event.DAEMON_START)
    log.close()
    assert verify(tmp_path, None).unsigned == 1
    assert verify(tmp_path, PUBLIC).why == "the checkpoint at entry 1 is not signed"
