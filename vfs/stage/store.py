"""Rows of the staged tree in SQLite: one transaction per operation of the agent.

An operation is answered once its transaction is in the write-ahead log, which survives the
daemon's death; a power cut may lose what was not synced, as on any file system. `sync` makes all
of it durable. Only the task that runs the core uses a store.
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vfs.attributes import Fingerprint

SCHEMA_VERSION = 2

_SCHEMA = """
-- One row per source that was ever projected; its number is part of every inode number below.
--   root      absolute canonical host path
--   name      its name at the mount's root
--   is_file   1: a single granted file, 0: a folder
CREATE TABLE projection (
    id INTEGER PRIMARY KEY,
    root BLOB NOT NULL,
    name BLOB NOT NULL,
    is_file INTEGER NOT NULL,
    dev INTEGER NOT NULL,
    ino INTEGER NOT NULL
) STRICT;

-- One row per object that the stage knows: changed, made by the agent, or a folder on the way.
--   origin       path in the source that content and attributes still come from; NULL: made by
--                the agent, nothing of a source shows through
--   odev, oino   identity of that source object if it can be met under other names (a file of
--                several links), and of a folder; else 0, 0
--   mode         type bits always; permission bits count only where own_mode is 1
--   uid, gid     NULL: the source's
--   *_ns         NULL: the source's, or the body's own times
--   nlink        files: NULL the source's, else the count; folders: sub-folders gained (or lost)
--   body         number of the staged content; NULL: content is the source's
--   target       of a symlink made by the agent
CREATE TABLE inode (
    ino INTEGER PRIMARY KEY,
    projection INTEGER NOT NULL,
    origin BLOB,
    odev INTEGER NOT NULL,
    oino INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    own_mode INTEGER NOT NULL,
    uid INTEGER,
    gid INTEGER,
    atime_ns INTEGER,
    mtime_ns INTEGER,
    ctime_ns INTEGER,
    nlink INTEGER,
    rdev INTEGER NOT NULL,
    body INTEGER,
    target BLOB
) STRICT;

-- One row per staged name. ino 0 is a whiteout: the source's entry of this name is gone.
-- parent 0 holds one row per projection whose root is staged, named by the projection's number.
CREATE TABLE entry (
    parent INTEGER NOT NULL,
    name BLOB NOT NULL,
    ino INTEGER NOT NULL,
    PRIMARY KEY (parent, name)
) STRICT, WITHOUT ROWID;

-- Extended attributes staged on an inode; value NULL: removed.
CREATE TABLE xattr (
    ino INTEGER NOT NULL,
    name BLOB NOT NULL,
    value BLOB,
    PRIMARY KEY (ino, name)
) STRICT, WITHOUT ROWID;

-- What a source object was when the stage first covered it, by its place in the source.
--   digest   HMAC of its bytes, NULL where none were read
--   body     masked copy of its content, NULL where none was kept
CREATE TABLE base (
    projection INTEGER NOT NULL,
    path BLOB NOT NULL,
    dev INTEGER NOT NULL,
    ino INTEGER NOT NULL,
    mode INTEGER NOT NULL,
    uid INTEGER NOT NULL,
    gid INTEGER NOT NULL,
    size INTEGER NOT NULL,
    mtime_ns INTEGER NOT NULL,
    ctime_ns INTEGER NOT NULL,
    digest BLOB,
    body INTEGER,
    PRIMARY KEY (projection, path)
) STRICT, WITHOUT ROWID;
"""

_LANDED = """
-- Commits whose changes this stage has forgotten, while the commit still has something to do.
CREATE TABLE IF NOT EXISTS landed (commit_id TEXT PRIMARY KEY) STRICT, WITHOUT ROWID;
"""

InodeRow = tuple[
    int, int, bytes | None, int, int, int, int, int | None, int | None,
    int | None, int | None, int | None, int | None, int, int | None, bytes | None,
]  # fmt: skip


def signed(number: int) -> int:
    """A 64-bit device or inode number as SQLite's integers, which have a sign, hold it."""
    return number - (1 << 64) if number >= 1 << 63 else number


def unsigned(column: int) -> int:
    """The inverse of `signed`."""
    return column % (1 << 64)


def _unusable(path: Path, why: str) -> OSError:
    return OSError(errno.EIO, f"{path} is {why}: restore it, or remove the workspace")


def _number(error: sqlite3.Error) -> int:
    return errno.ENOSPC if "full" in str(error) else errno.EIO


class Store:
    """The stage's database. Raises OSError(ENOSPC or EIO) where SQLite cannot write."""

    def __init__(self, path: Path, *, fresh: bool = True) -> None:
        """`fresh` False refuses a database without rows: contents are there that it must name.

        Raises OSError where the database cannot be used, with a text that says why."""
        self._wal = Path(f"{path}-wal")
        self._depth = 0
        existed = path.exists()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        try:
            if not existed:
                os.chmod(path, 0o600)
            self._make_ready(path, fresh)
        except sqlite3.OperationalError as error:
            self._db.close()
            raise OSError(_number(error), f"{path}: {error}") from error
        except sqlite3.DatabaseError as error:
            self._db.close()
            raise _unusable(path, f"damaged ({error})") from error
        except BaseException:
            self._db.close()
            raise

    def _make_ready(self, path: Path, fresh: bool) -> None:
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")
        if self._db.execute("PRAGMA quick_check(1)").fetchone() != ("ok",):
            raise _unusable(path, "damaged")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0 and not fresh:
            raise _unusable(path, "missing or empty")
        if version == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise OSError(95, f"stage of format {version}, this program knows {SCHEMA_VERSION}")
        self._db.executescript(_LANDED)

    def close(self) -> None:
        """Fold the write-ahead log in and close."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All rows written inside land together or not at all; may be nested."""
        if self._depth:
            yield
            return
        self._depth = 1
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                number = _number(error)
                raise OSError(number, os.strerror(number)) from error
            raise
        finally:
            self._depth = 0

    def sync(self) -> None:
        """Make every finished transaction survive a power cut. Raises OSError."""
        try:
            fd = os.open(self._wal, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # nothing was written yet; what was before is in the database, and durable
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    # -- reading, once at start ------------------------------------------------------------

    def projections(self) -> list[tuple[int, bytes, bytes, int, int, int]]:
        """(id, root, name, is_file, dev, ino) of every projection ever made."""
        rows = self._db.execute("SELECT id, root, name, is_file, dev, ino FROM projection")
        return [(*row[:4], unsigned(row[4]), unsigned(row[5])) for row in rows]

    def inodes(self) -> Iterator[InodeRow]:
        """Every inode row, in the order of the columns."""
        return iter(self._db.execute("SELECT * FROM inode"))

    def entries(self) -> Iterator[tuple[int, bytes, int]]:
        """Every (parent, name, ino)."""
        return iter(self._db.execute("SELECT parent, name, ino FROM entry"))

    def xattrs(self) -> Iterator[tuple[int, bytes, bytes | None]]:
        """Every (ino, name, value)."""
        return iter(self._db.execute("SELECT ino, name, value FROM xattr"))

    def bases(self) -> Iterator[tuple[int, bytes, Fingerprint, int | None]]:
        """Every (projection, path, fingerprint, body)."""
        for row in self._db.execute(
            "SELECT projection, path, dev, ino, mode, uid, gid, size, mtime_ns, ctime_ns, digest,"
            " body FROM base"
        ):
            identity = unsigned(row[2]), unsigned(row[3])
            yield row[0], row[1], Fingerprint(*identity, *row[4:11]), row[11]

    def landed(self) -> set[str]:
        """Commits that were noted and not yet forgotten."""
        return {row[0] for row in self._db.execute("SELECT commit_id FROM landed")}

    # -- writing, inside a transaction -----------------------------------------------------

    def note_landed(self, commit: str) -> None:
        """With the transaction, the commit is made."""
        self._db.execute("INSERT INTO landed VALUES (?)", (commit,))

    def forget_landed(self, commit: str) -> None:
        """Nothing of the commit is left to do."""
        self._db.execute("DELETE FROM landed WHERE commit_id = ?", (commit,))

    def put_projection(
        self, number: int, root: bytes, name: bytes, is_file: bool, dev: int, ino: int
    ) -> None:
        """Write or replace a projection."""
        self._db.execute(
            "INSERT OR REPLACE INTO projection VALUES (?,?,?,?,?,?)",
            (number, root, name, int(is_file), signed(dev), signed(ino)),
        )

    def drop_projection(self, number: int) -> None:
        """Remove a projection's row."""
        self._db.execute("DELETE FROM projection WHERE id = ?", (number,))

    def put_inode(self, row: InodeRow) -> None:
        """Write or replace an inode."""
        self._db.execute(f"INSERT OR REPLACE INTO inode VALUES ({','.join('?' * 16)})", row)

    def drop_inode(self, ino: int) -> None:
        """Remove an inode, its extended attributes and, of a folder, the names in it."""
        self._db.execute("DELETE FROM inode WHERE ino = ?", (ino,))
        self._db.execute("DELETE FROM entry WHERE parent = ?", (ino,))
        self._db.execute("DELETE FROM xattr WHERE ino = ?", (ino,))

    def put_entry(self, parent: int, name: bytes, ino: int) -> None:
        """Write or replace a name; ino 0 is a whiteout."""
        self._db.execute("INSERT OR REPLACE INTO entry VALUES (?,?,?)", (parent, name, ino))

    def drop_entry(self, parent: int, name: bytes) -> None:
        """Remove a name's row."""
        self._db.execute("DELETE FROM entry WHERE parent = ? AND name = ?", (parent, name))

    def put_xattr(self, ino: int, name: bytes, value: bytes | None) -> None:
        """Write an extended attribute; None records its removal."""
        self._db.execute("INSERT OR REPLACE INTO xattr VALUES (?,?,?)", (ino, name, value))

    def drop_xattr(self, ino: int, name: bytes) -> None:
        """Forget that an extended attribute was staged."""
        self._db.execute("DELETE FROM xattr WHERE ino = ? AND name = ?", (ino, name))

    def put_base(self, projection: int, path: bytes, base: Fingerprint, body: int | None) -> None:
        """Write or replace a base."""
        self._db.execute(
            "INSERT OR REPLACE INTO base VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (
                projection, path, signed(base.dev), signed(base.ino), base.mode, base.uid,
                base.gid, base.size, base.mtime_ns, base.ctime_ns, base.digest, body,
            ),
        )  # fmt: skip

    def drop_base(self, projection: int, path: bytes) -> None:
        """Remove a base."""
        self._db.execute("DELETE FROM base WHERE projection = ? AND path = ?", (projection, path))
