"""Reading the log: with the daemon or without it, while it writes or after it crashed.

Nothing here changes an entry or the files that hold them. Anyone may call it from any thread; the
calls block on the disk, so a trio task takes a thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from urllib.parse import quote

from gateway.audit.codec import decode
from gateway.audit.errors import AuditError
from gateway.audit.events import Event, Record, micros
from gateway.audit.store import DATABASE, USER_VERSION


@contextmanager
def open_readonly(folder: Path) -> Iterator[sqlite3.Connection]:
    """A connection to the log in `folder` that can't write. Raises AuditError if there is none.

    Without a WAL the file is at rest and is opened as immutable: a read-only connection would
    leave an empty WAL and index behind. With one, be it a crashed daemon's or a running one's, its
    frames belong to the log and SQLite has to join them in; that touches the index file alone.
    """
    path = folder / DATABASE
    if not path.is_file():
        raise AuditError(f"there is no log at {path}", "`grantfs ps` lists the workspaces")
    mode = "mode=ro" if wal_path(folder).exists() else "immutable=1"
    try:
        connection = sqlite3.connect(
            f"file:{quote(bytes(path.absolute()))}?{mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
        )
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    try:
        connection.execute("PRAGMA trusted_schema = OFF")
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > USER_VERSION:
            raise AuditError(
                f"the log {path} has tables of version {version}, not {USER_VERSION}",
                "use the version of grantfs that wrote it",
            )
        yield connection
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    finally:
        connection.close()


def wal_path(folder: Path) -> Path:
    """Where SQLite keeps what is not in the database yet; gone after a stop in order."""
    return folder / f"{DATABASE}-wal"


def read(
    folder: Path,
    *,
    after: int = 0,
    since: datetime | None = None,
    events: Collection[Event] | None = None,
    path: bytes | None = None,
    limit: int | None = None,
    newest: bool = False,
) -> Iterator[Record]:
    """The records that pass every filter, in order of seq.

    `after`: only those with a greater seq, which is how a follower goes on. `since`: aware time.
    `path`: that file, or all below that folder; b"" is the root. `limit`: at most so many, the
    first ones or, with `newest`, the last ones. An unfinished iteration keeps the daemon from
    shortening its WAL, so don't leave one open. Raises AuditError.
    """
    where, values = _filters(after, since, events, path)
    query = f"SELECT seq, time, event, path, body FROM entries WHERE {where} ORDER BY seq"
    if limit is not None:
        query += f"{' DESC' if newest else ''} LIMIT ?"
        values.append(limit)
        if newest:
            query = f"SELECT * FROM ({query}) ORDER BY seq"
    with open_readonly(folder) as connection:
        for row in connection.execute(query, values):
            yield decode(*row)


def _filters(
    after: int, since: datetime | None, events: Collection[Event] | None, path: bytes | None
) -> tuple[str, list[object]]:
    parts = ["seq > ?"]
    values: list[object] = [after]
    if since is not None:
        parts.append("time >= ?")
        values.append(micros(since))
    if events is not None:
        parts.append(f"event IN ({','.join('?' * len(events))})")
        values.extend(event.value for event in events)
    if path == b"":
        parts.append("path IS NOT NULL")
    elif path is not None:
        # "0" is the byte after "/", so the range is what begins with path and "/".
        parts.append("(path = ? OR (path > ? AND path < ?))")
        values.extend((path, path + b"/", path + b"0"))
    return " AND ".join(parts), values


def _unreadable(path: Path, error: sqlite3.Error) -> AuditError:
    return AuditError(
        f"the log {path} can't be read: {error}",
        "`grantfs audit verify` says where it is damaged",
    )
