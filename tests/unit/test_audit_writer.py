"""Promises 8 and 10: every event is on the record, durable where it must be; a loss is told."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit import Actor, AuditError, AuditLog, Event, EventError, Record, read, verify

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
PUBLIC = KEY.public_key().public_bytes_raw()
START = 1_767_323_045_000_006_000  # 2026-01-02T03:04:05.000006Z in ns


@pytest.fixture
def log(tmp_path: Path) -> Iterator[AuditLog]:
    log = AuditLog(tmp_path, KEY.sign, clock=lambda: START)
    yield log
    log.close()


class Gate:
    """A signer that holds the writer's thread until it is opened, and can be told to fail."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.opened = threading.Event()
        self.error: Exception | None = None

    def sign(self, message: bytes) -> bytes:
        self.entered.set()
        assert self.opened.wait(60)
        if self.error is not None:
            raise self.error
        return KEY.sign(message)


def events(folder: Path) -> list[Record]:
    return list(read(folder))


def test_an_entry_comes_back_as_it_was_given(log: AuditLog, tmp_path: Path) -> None:
    assert log.append(
        Event.OPEN,
        subject="agent",
        actor=Actor(4711, 1000, "/usr/bin/python3"),
        path=b"proj/a.py",
        grant="g1",
        detail={"access": "read", "size": 12, "masked": 2, "staged": False},
    )
    (record,) = log.read()
    assert record.to_json() == {
        "seq": 1,
        "time": "2026-01-02T03:04:05.000006Z",
        "event": "open",
        "outcome": "ok",
        "subject": "agent",
        "actor": {"pid": 4711, "uid": 1000, "exe": "/usr/bin/python3"},
        "path": "proj/a.py",
        "grant": "g1",
        "detail": {"access": "read", "size": 12, "masked": 2, "staged": False},
        "version": 1,
    }


def test_durable_entries_give_their_number(log: AuditLog) -> None:
    log.append(Event.OPEN)
    assert log.append_durable(Event.DECISION) == 2
    assert log.submit_durable(Event.COMMIT).result(60) == 3


def test_a_durable_entry_waits_for_the_disk(log: AuditLog, tmp_path: Path) -> None:
    trace: list[str] = []
    log._store._db.set_trace_callback(trace.append)
    log.append(Event.OPEN)
    log.flush()
    log.append_durable(Event.DECISION)
    log._store._db.set_trace_callback(None)
    interesting = [s for s in trace if "synchronous" in s or s == "COMMIT"]
    assert interesting[0] == "PRAGMA synchronous = NORMAL"
    assert interesting[-2:] == ["PRAGMA synchronous = FULL", "COMMIT"]
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_durable_entry_is_signed_when_the_last_signature_is_old(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY.sign, checkpoint_seconds=1e9)
    log._signed_at -= 2
    log.append_durable(Event.DECISION)
    assert verify(tmp_path, PUBLIC).unsigned == 0
    log._signed_at += 1000
    log.append_durable(Event.DECISION)
    assert verify(tmp_path, PUBLIC).unsigned == 1
    log.close()
    assert verify(tmp_path, PUBLIC).unsigned == 0


def test_a_checkpoint_comes_by_itself_after_a_while(tmp_path: Path) -> None:
    signed = threading.Event()

    def sign(message: bytes) -> bytes:
        signed.set()
        return KEY.sign(message)

    log = AuditLog(tmp_path, sign, checkpoint_seconds=0.01)
    log.append(Event.OPEN)
    assert signed.wait(60)
    log.close()


def test_the_files_are_private_and_named_audit(log: AuditLog, tmp_path: Path) -> None:
    log.append_durable(Event.DAEMON_START)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"audit.db", "audit.db-wal"} <= names
    for path in tmp_path.iterdir():
        assert path.name.startswith("audit")
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET path = NULL",
        "DELETE FROM entries",
        "INSERT OR REPLACE INTO entries SELECT 1, time, event, NULL, body, hash FROM entries",
        "REPLACE INTO entries SELECT seq, 0, event, path, body, hash FROM entries",
        "INSERT OR IGNORE INTO entries SELECT 9, time, event, path, body, hash FROM entries",
        "UPDATE checkpoints SET time = 0",
        "DELETE FROM checkpoints",
        "INSERT OR REPLACE INTO checkpoints SELECT seq, 0, hash, NULL FROM checkpoints",
    ],
)
@pytest.mark.parametrize("recursive", ["ON", "OFF"])
def test_the_tables_refuse_to_forget(tmp_path: Path, statement: str, recursive: str) -> None:
    log = AuditLog(tmp_path, KEY.sign)
    log.append(Event.OPEN, path=b"a")
    log.close()
    with closing(sqlite3.connect(tmp_path / "audit.db", isolation_level=None)) as db:
        db.execute(f"PRAGMA recursive_triggers = {recursive}")
        with pytest.raises(sqlite3.IntegrityError):
            db.execute(statement)
    assert verify(tmp_path, PUBLIC).ok


def test_the_writers_connection_has_recursive_triggers(log: AuditLog) -> None:
    log.flush()
    assert log._store._db.execute("PRAGMA recursive_triggers").fetchone() == (1,)


@pytest.mark.parametrize(
    "offered",
    [
        {"detail": {"contents": "x"}},
        {"detail": {"contents": None}},
        {"detail": {"rule": "r"}},  # declared, but of another event
        {"detail": {"size": "12"}},
        {"detail": {"size": True}},
        {"detail": {"access": b"read"}},
        {"detail": {"access": ["read"]}},
        {"detail": {"size": 1 << 63}},
        {"outcome": "maybe"},
        {"path": "a"},
        {"subject": b"agent"},
        {"actor": (1, 2, "x")},
    ],
)
def test_what_is_not_declared_is_refused(log: AuditLog, offered: dict[str, object]) -> None:
    with pytest.raises(EventError):
        log.append(Event.OPEN, **offered)  # type: ignore[arg-type]
    with pytest.raises(EventError):
        log.submit_durable(Event.OPEN, **offered)  # type: ignore[arg-type]
    assert list(log.read()) == []


def test_an_unknown_event_is_refused(log: AuditLog) -> None:
    with pytest.raises(EventError):
        log.append("sneaky")  # type: ignore[arg-type]


def test_a_detail_that_its_caller_changes_afterwards_stays(tmp_path: Path) -> None:
    gate = Gate()
    log = AuditLog(tmp_path, gate.sign, linger=0, checkpoint_every=1)
    log.append(Event.OPEN)
    assert gate.entered.wait(60)
    detail = {"access": "read"}
    log.append(Event.OPEN, detail=detail)
    detail["contents"] = "secret"
    gate.opened.set()
    log.close()
    assert events(tmp_path)[1].detail == {"access": "read"}


@pytest.mark.parametrize(
    "path", [b"", b"a\\b", b"a\xffb", b"\xff\\x", b"\xed\xb0\x80", b"new\nline", "ü".encode()]
)
def test_names_are_bytes(log: AuditLog, path: bytes) -> None:
    log.append(Event.STAGE, path=path, detail={"from": path})
    (record,) = log.read(path=path)
    assert record.raw_path == path
    for shown in (record.to_json(), record.to_json()["detail"]):
        assert isinstance(shown, dict)
        key = "path" if "path" in shown else "from"
        text = shown[key]
        if f"{key}_hex" in shown:
            assert bytes.fromhex(shown[f"{key}_hex"]) == path
            unescaped = text.encode().decode("unicode_escape").encode("latin-1")
            assert unescaped == path  # the escape is lossless too
        else:
            assert text.encode() == path


def test_texts_and_paths_are_capped(log: AuditLog) -> None:
    log.append(
        Event.GRANT,
        subject="s" * 9999,
        path=b"p" * 9999,
        actor=Actor(1, 2, "/bin/\udcff"),
        detail={"scope": "x" * 9999},
    )
    (record,) = log.read()
    assert record.raw_path == b"p" * 4096
    assert record.detail["path_length"] == 9999
    assert len(str(record.detail["scope"])) == len(record.subject or "") == 1024
    assert record.actor is not None
    assert record.actor.exe == "/bin/\\xff"


def test_the_filters(log: AuditLog) -> None:
    for path in (b"proj", b"proj/a", b"proj/a/b", b"proj0", b"proj-x", None):
        log.append(Event.OPEN, path=path)
    log.append(Event.REFUSE, path=b"proj/a")
    assert [r.seq for r in log.read(path=b"proj")] == [1, 2, 3, 7]
    assert [r.seq for r in log.read(path=b"")] == [1, 2, 3, 4, 5, 7]
    assert [r.seq for r in log.read(events=[Event.REFUSE])] == [7]
    assert [r.seq for r in log.read(after=5)] == [6, 7]
    assert [r.seq for r in log.read(limit=2)] == [1, 2]
    assert [r.seq for r in log.read(limit=2, newest=True)] == [6, 7]


def test_watchers_hear_of_what_was_written(log: AuditLog) -> None:
    heard: list[int] = []

    def broken(seq: int) -> None:
        raise RuntimeError("no")

    log.watch(broken)
    end = log.watch(heard.append)
    log.append_durable(Event.GRANT)
    log.flush()
    end()
    log.append_durable(Event.REVOKE)
    log.flush()
    assert heard == [1]
    assert log.failed is None


def test_overload_leaves_a_counted_gap_where_it_was(tmp_path: Path) -> None:
    gate = Gate()
    log = AuditLog(tmp_path, gate.sign, queue_limit=5, linger=0, checkpoint_every=1)
    log.append(Event.OPEN)
    assert gate.entered.wait(60)
    kept = [log.append(Event.OPEN, path=b"%d" % n) for n in range(50)]
    decision = log.submit_durable(Event.DECISION)  # has a place when there is none
    gate.opened.set()
    assert decision.result(60)
    log.flush()
    assert log.append(Event.OPEN, path=b"after")
    log.close()
    records = events(tmp_path)
    (gap,) = [r for r in records if r.event is Event.GAP]
    assert gap.detail["dropped"] == kept.count(False) > 0
    assert gap.detail["why"] == "overload"
    assert len(records) == 1 + kept.count(True) + 1 + 1 + 1
    assert records[-1].raw_path == b"after"
    assert verify(tmp_path, PUBLIC).ok


def test_a_signer_that_fails_fails_the_log_until_it_works(tmp_path: Path) -> None:
    gate = Gate()
    gate.opened.set()
    log = AuditLog(tmp_path, gate.sign, checkpoint_every=1)
    gate.error = RuntimeError("keyring locked: hunter2")
    log.append(Event.OPEN, path=b"kept")
    with pytest.raises(AuditError):
        log.append_durable(Event.DECISION)
    with pytest.raises(AuditError):
        log.append_durable(Event.DECISION)
    assert isinstance(log.failed, RuntimeError)
    with pytest.raises(AuditError):
        log.flush()
    gate.error = None
    assert log.append_durable(Event.COMMIT)
    log.flush()
    assert log.failed is None
    log.close()
    records = events(tmp_path)
    assert [r.event for r in records] == [Event.OPEN, Event.COMMIT, Event.GAP]
    gap = records[-1].detail
    assert (gap["dropped"], gap["why"], gap["error"]) == (2, "unwritable", "RuntimeError")
    assert verify(tmp_path, PUBLIC).ok


def test_it_recovers_by_itself(tmp_path: Path) -> None:
    gate = Gate()
    gate.opened.set()
    log = AuditLog(tmp_path, gate.sign, checkpoint_every=1)
    gate.error = RuntimeError("no")
    with pytest.raises(AuditError):
        log.append_durable(Event.DECISION)
    written = threading.Event()
    log.watch(lambda seq: written.set())
    gate.error = None
    assert written.wait(60)
    log.close()
    assert [r.event for r in events(tmp_path)] == [Event.GAP]


def test_closing_a_log_that_can_not_be_written_says_so_and_so_does_the_next(tmp_path: Path) -> None:
    gate = Gate()
    gate.opened.set()
    log = AuditLog(tmp_path, gate.sign, checkpoint_every=1)
    log.append_durable(Event.DAEMON_START)
    gate.error = RuntimeError("no")
    log.append(Event.OPEN)
    with pytest.raises(AuditError, match="1 events were not written"):
        log.close()
    log = AuditLog(tmp_path, KEY.sign)
    log.close()
    assert [r.event for r in events(tmp_path)] == [Event.DAEMON_START, Event.LOG_RECOVERED]


def test_a_log_that_is_replaced_while_in_use_fails(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY.sign)
    log.append_durable(Event.DAEMON_START)
    (tmp_path / "audit.db").rename(tmp_path / "moved.db")
    with pytest.raises(AuditError):
        log.append_durable(Event.DECISION)
    (tmp_path / "moved.db").rename(tmp_path / "audit.db")
    assert log.append_durable(Event.DECISION) == 2
    log.close()


def test_a_missing_or_emptied_log_is_not_made_anew_unless_told(tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="no log"):
        AuditLog(tmp_path, KEY.sign, create=False)
    (tmp_path / "audit.db").touch()
    with pytest.raises(AuditError, match="emptied"):
        AuditLog(tmp_path, KEY.sign, create=False)
    log = AuditLog(tmp_path, KEY.sign)
    log.close()
    assert events(tmp_path) == []


def test_a_symlink_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").touch()
    (tmp_path / "audit.db").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(AuditError):
        AuditLog(tmp_path, KEY.sign)


def test_a_second_writer_is_refused(log: AuditLog, tmp_path: Path) -> None:
    with pytest.raises(AuditError, match="another process"):
        AuditLog(tmp_path, KEY.sign)


def test_a_newer_log_is_refused(tmp_path: Path) -> None:
    AuditLog(tmp_path, KEY.sign).close()
    with closing(sqlite3.connect(tmp_path / "audit.db")) as db:
        db.execute("PRAGMA user_version = 2")
    with pytest.raises(AuditError, match="version 2"):
        AuditLog(tmp_path, KEY.sign)
    with pytest.raises(AuditError, match="version 2"):
        verify(tmp_path, PUBLIC)


def test_closed_is_closed(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY.sign)
    log.close()
    log.close()
    for call in (log.flush, lambda: log.append(Event.OPEN), lambda: log.append_durable(Event.OPEN)):
        with pytest.raises(AuditError, match="closed"):
            call()


def test_the_chain_goes_on_after_reopening(tmp_path: Path) -> None:
    for _ in range(3):
        log = AuditLog(tmp_path, KEY.sign, create=True)
        log.append(Event.DAEMON_START)
        log.close()
    found = verify(tmp_path, PUBLIC)
    assert (found.ok, found.entries, found.checkpoints) == (True, 3, 3)


def test_eight_threads_lose_nothing(tmp_path: Path) -> None:
    log = AuditLog(tmp_path, KEY.sign)
    each = 1000
    barrier = threading.Barrier(8)

    def work(thread: int) -> None:
        barrier.wait()
        for number in range(each):
            log.append(Event.OPEN, subject=str(thread), detail={"size": number})
            if number % 250 == 0:
                log.append_durable(Event.DECISION, subject=str(thread))

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.close()
    seen: dict[str | None, list[object]] = {}
    for record in read(tmp_path, events=[Event.OPEN]):
        seen.setdefault(record.subject, []).append(record.detail["size"])
    assert seen == {str(n): list(range(each)) for n in range(8)}
    assert len(list(read(tmp_path, events=[Event.DECISION]))) == 8 * 4
    assert verify(tmp_path, PUBLIC).ok


CHILD = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from gateway.audit import *
key = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
folder = Path(sys.argv[1])
"""


def child(folder: Path, code: str, **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
        [sys.executable, "-c", CHILD + textwrap.dedent(code), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        **options,
    )


def test_a_killed_daemon_leaves_its_durable_entries_and_a_log_that_verifies(tmp_path: Path) -> None:
    process = child(
        tmp_path,
        """
        log = AuditLog(folder, key.sign, checkpoint_every=7)
        while True:
            for number in range(20):
                log.append(Event.OPEN, path=b"proj/a", detail={"size": number})
            print(log.append_durable(Event.DECISION), flush=True)
        """,
    )
    assert process.stdout is not None
    told = [int(next(process.stdout)) for _ in range(20)]
    process.send_signal(signal.SIGKILL)
    told += [int(line) for line in process.stdout if line.endswith("\n")]
    process.wait()

    def state() -> dict[str, bytes]:
        return {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.suffix != ".db-shm"}

    before = state()
    assert (tmp_path / "audit.db-wal").stat().st_size
    crashed = verify(tmp_path, PUBLIC)
    assert crashed.ok, crashed.why
    assert crashed.entries >= told[-1]
    assert state() == before

    log = AuditLog(tmp_path, KEY.sign, create=False)
    log.close()
    found = verify(tmp_path, PUBLIC)
    assert found.ok, found.why
    records = {record.seq: record for record in read(tmp_path)}
    assert all(records[seq].event is Event.DECISION for seq in told)
    last = records[found.entries]
    assert last.event is Event.LOG_RECOVERED
    assert last.detail["unsigned"] == crashed.unsigned


def test_a_full_disk_fails_closed_and_recovers_with_a_gap(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: writing beyond it fails likewise."""
    process = child(
        tmp_path,
        f"""
        import resource, signal
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = AuditLog(folder, key.sign)
        first = log.append_durable(Event.DAEMON_START)
        full = (folder / "audit.db-wal").stat().st_size + 20000
        resource.setrlimit(resource.RLIMIT_FSIZE, (full, {resource.RLIM_INFINITY}))
        done = refused = 0
        while refused < 3:
            try:
                log.append_durable(Event.GRANT, detail={{"scope": "x" * 500}})
                done += 1
            except AuditError as error:
                assert error.hint
                assert log.failed is not None
                refused += 1
        assert log.append(Event.OPEN, path=b"kept")
        resource.setrlimit(resource.RLIMIT_FSIZE, ({resource.RLIM_INFINITY},) * 2)
        log.append_durable(Event.COMMIT)
        log.flush()
        assert log.failed is None
        log.close()
        print(done, refused)
        """,
    )
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0
    done, refused = map(int, output.split())
    records = events(tmp_path)
    names = [record.event for record in records]
    assert names == [
        Event.DAEMON_START,
        *[Event.GRANT] * done,
        Event.OPEN,
        Event.COMMIT,
        Event.GAP,
    ]
    assert records[-1].detail["dropped"] == refused
    assert records[-1].detail["why"] == "unwritable"
    assert str(records[-1].detail["error"]).startswith("SQLITE_")
    found = verify(tmp_path, PUBLIC)
    assert found.ok, found.why
