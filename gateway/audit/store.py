"""The log's SQLite file, for its one writer: creating it, appending to it, making it durable.

Promises: entries and checkpoints are only ever added (triggers refuse the rest, `INSERT OR REPLACE`
included, on any connection); `write` is all or nothing; with `durable` it returns once the entries,
and all before them, are on the disk. Two writers at once are refused, by a lock on `audit.lock`.

Only the thread that writes may call it after construction. All methods raise AuditError or
sqlite3.Error.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeAlias

from gateway.audit.chain import FORMAT, LOG_ID_BYTES, Head, genesis
from gateway.audit.errors import AuditError

DATABASE: Final = "audit.db"
LOCK: Final = "audit.lock"

USER_VERSION: Final = 1
"""The version of the tables below, in `PRAGMA user_version`."""

_RESTORE: Final = "put the file back from a backup, or remove the workspace with `grantfs rm`"

_WAL_PAGES: Final = 1000  # SQLite's default: move 4 MB of WAL into the database at a time
_WAL_KEPT: Final = 16 << 20  # bytes of an emptied WAL that stay allocated

_OPEN_MARK: Final = b"open\n"

EntryRow: TypeAlias = tuple[int, int, str, bytes | None, str, bytes]
CheckpointRow: TypeAlias = tuple[int, int, bytes, bytes | None]

# There is no index on purpose: one with rows taken out of it would hide entries from a filter
# while the entries themselves verify; a scan of a million takes under a second.
SCHEMA: Final[Sequence[str]] = (
    # One row. id: random bytes that bind every hash to this log. format: of the hashed bytes, as
    # chain.FORMAT. created: µs since 1970 UTC.
    """CREATE TABLE log (
    id BLOB NOT NULL CHECK (length(id) = 16),
    format INTEGER NOT NULL,
    created INTEGER NOT NULL
) STRICT""",
    # One row an event. seq: 1, 2, 3 … with none left out. time: µs since 1970 UTC, as the wall
    # clock had it when the event was offered, so it may step back. event: a value of
    # events.Event. path: raw bytes relative to the mount's root, NULL if about no file, empty for
    # the root. body: one line of ASCII JSON, see codec. hash: chain.linker over all of these and
    # the hash of seq - 1 (of 1: chain.genesis).
    """CREATE TABLE entries (
    seq INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    event TEXT NOT NULL,
    path BLOB,
    body TEXT NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT""",
    # One row a checkpoint. seq, hash: the entry that was last then. time: µs since 1970 UTC, when
    # it was signed. signature: Ed25519 over chain.checkpoint_message; NULL where the log was
    # opened without a key, which verify reports.
    """CREATE TABLE checkpoints (
    seq INTEGER PRIMARY KEY,
    time INTEGER NOT NULL,
    hash BLOB NOT NULL CHECK (length(hash) = 32),
    signature BLOB
) STRICT""",
    # The insert triggers run before a REPLACE takes the old row out, so they stop it also on a
    # connection that has recursive_triggers off.
    """CREATE TRIGGER entries_follow BEFORE INSERT ON entries
WHEN NEW.seq <> (SELECT coalesce(max(seq), 0) + 1 FROM entries)
BEGIN SELECT RAISE(ABORT, 'entries are numbered without gaps'); END""",
    """CREATE TRIGGER entries_stay BEFORE DELETE ON entries
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
    """CREATE TRIGGER entries_keep BEFORE UPDATE ON entries
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
    """CREATE TRIGGER checkpoints_follow BEFORE INSERT ON checkpoints
WHEN NEW.seq <= (SELECT coalesce(max(seq), -1) FROM checkpoints)
BEGIN SELECT RAISE(ABORT, 'checkpoints go forward'); END""",
    """CREATE TRIGGER checkpoints_stay BEFORE DELETE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
    """CREATE TRIGGER checkpoints_keep BEFORE UPDATE ON checkpoints
BEGIN SELECT RAISE(ABORT, 'the log is append-only'); END""",
)

_INSERT: Final = "INSERT INTO entries (seq, time, event, path, body, hash) VALUES "
_INSERT_CHECKPOINT: Final = (
    "INSERT INTO checkpoints (seq, time, hash, signature) VALUES (?, ?, ?, ?)"
)


class Store:
    """The open log of one folder.

    `log_id` is the log's random id, `head` the last committed entry, `signed` the seq of the last
    checkpoint (None: there is none), `unclean` whether the writer before did not close in order.
    """

    log_id: bytes
    head: Head
    signed: int | None
    unclean: bool

    def __init__(self, folder: Path, now: int, *, create: bool = True) -> None:
        """Open the log in `folder`, or make it if `create`; `now` is µs since 1970 UTC."""
        self._path = folder / DATABASE
        self._lock, self.unclean = _take_lock(folder)
        try:
            fresh = _reserve(self._path, create)
            self._db = sqlite3.connect(
                self._path, isolation_level=None, check_same_thread=False, cached_statements=64
            )
            try:
                self._prepare(now, create)
                if fresh:
                    _sync_folder(folder)
            except BaseException:
                self._db.close()
                raise
        except BaseException as error:
            self._let_go(clean=not self.unclean)
            if isinstance(error, sqlite3.Error | OSError):
                raise AuditError(
                    f"the log {self._path} can't be opened: {error}",
                    "free space if the disk is full; `grantfs audit verify` says if it is damaged",
                ) from error
            raise

    def _prepare(self, now: int, create: bool) -> None:
        db = self._db
        db.execute("PRAGMA trusted_schema = OFF")
        db.execute("PRAGMA recursive_triggers = ON")
        if db.execute("PRAGMA journal_mode = WAL").fetchone()[0] != "wal":
            raise AuditError(
                f"the file system of {self._path} can't hold a write-ahead log",
                "keep the workspace's state on a local disk",
            )
        db.execute(f"PRAGMA wal_autocheckpoint = {_WAL_PAGES}")
        db.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT}")
        self._durable: bool | None = None
        version = db.execute("PRAGMA user_version").fetchone()[0]
        # A crash between making the file and its first transaction leaves an empty database.
        if version == 0 and not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
            if not create:
                raise AuditError(f"the log {self._path} was emptied", _RESTORE)
            self._make(now)
        elif version != USER_VERSION:
            raise AuditError(
                f"the log {self._path} has tables of version {version}, not {USER_VERSION}",
                "use the version of grantfs that wrote it",
            )
        log_id, form = db.execute("SELECT id, format FROM log").fetchone() or (b"", 0)
        if form != FORMAT:
            raise AuditError(
                f"the log {self._path} has entries of format {form}, not {FORMAT}",
                "use the version of grantfs that wrote it",
            )
        self.log_id = log_id
        last = db.execute("SELECT seq, hash FROM entries ORDER BY seq DESC LIMIT 1").fetchone()
        self.head = Head(*last) if last else genesis(log_id)
        self.signed = db.execute("SELECT max(seq) FROM checkpoints").fetchone()[0]
        self._identity = _identity(self._path)

    def _make(self, now: int) -> None:
        db = self._db
        self._set_durable(True)
        db.execute("BEGIN IMMEDIATE")
        for statement in SCHEMA:
            db.execute(statement)
        row = (secrets.token_bytes(LOG_ID_BYTES), FORMAT, now)
        db.execute("INSERT INTO log (id, format, created) VALUES (?, ?, ?)", row)
        db.execute(f"PRAGMA user_version = {USER_VERSION}")
        db.execute("COMMIT")

    def begin(self, *, durable: bool) -> None:
        """Start the one transaction; `durable` makes its commit wait for the disk."""
        if _identity(self._path) != self._identity:
            raise AuditError(
                f"the log {self._path} was replaced or removed while in use",
                "put the file back and restart the workspace",
            )
        self._set_durable(durable)
        self._db.execute("BEGIN IMMEDIATE")

    def insert(self, rows: Sequence[EntryRow]) -> None:
        """Add entries that follow the last ones added.

        One statement for all of them: each statement gives up the interpreter lock once, and when
        another thread is busy it takes 5 ms to get it back.
        """
        values = [value for row in rows for value in row]
        self._db.execute(_INSERT + ",".join(["(?,?,?,?,?,?)"] * len(rows)), values)

    def insert_checkpoint(self, row: CheckpointRow) -> None:
        self._db.execute(_INSERT_CHECKPOINT, row)

    def commit(self, head: Head, signed: int | None) -> None:
        """End the transaction; `head` and `signed` describe the log with it."""
        self._db.execute("COMMIT")
        self.head = head
        self.signed = signed

    def rollback(self) -> None:
        """Drop what was added since `begin`; harmless where SQLite did it already."""
        with contextlib.suppress(sqlite3.Error):
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")

    def close(self, *, clean: bool) -> None:
        """Fold the WAL into the database and let others write. Does not raise.

        Without `clean` (something was not written) the next writer finds `unclean`.
        """
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
        self._let_go(clean=clean)

    def _let_go(self, *, clean: bool) -> None:
        with contextlib.suppress(OSError):
            if clean:
                os.ftruncate(self._lock, 0)
        os.close(self._lock)

    def _set_durable(self, durable: bool) -> None:
        # In WAL mode FULL is NORMAL plus an fsync of the WAL at each commit, which covers the
        # commits before it. The pragma can't be set inside a transaction.
        if durable is not self._durable:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            self._durable = durable


def _take_lock(folder: Path) -> tuple[int, bool]:
    """(the lock's descriptor, whether the last writer left its mark).

    The mark stands in the lock file while the log is open. It is written before anything else,
    so that an end that could write nothing more, on a full disk, still shows.
    """
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise AuditError(
            f"the log's folder {folder} can't be written: {error.strerror}",
            "check that it exists, is yours, and that the disk is not full",
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        raise AuditError(
            f"the log in {folder} is being written by another process",
            "stop the other daemon of this workspace first",
        ) from error
    try:
        unclean = bool(os.pread(lock, 1, 0))
        os.pwrite(lock, _OPEN_MARK, 0)
        os.fsync(lock)
    except OSError as error:
        os.close(lock)
        raise AuditError(
            f"the log's folder {folder} can't be written: {error.strerror}",
            "free space on that disk",
        ) from error
    return lock, unclean


def _reserve(path: Path, create: bool) -> bool:
    """Make sure that the database file exists with mode 0600; True if it was made.

    SQLite gives its side files the mode of the database. An existing file is never opened here:
    closing such a descriptor would drop the locks that SQLite holds on it in this process.
    """
    if create:
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            os.close(os.open(path, flags, 0o600))
            return True
        except FileExistsError:
            pass
    if path.is_symlink() or not path.is_file():
        raise AuditError(
            f"there is no log at {path}",
            _RESTORE,
        )
    path.chmod(0o600)
    return False


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
