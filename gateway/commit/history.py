"""Commits in SQLite: those that were made, with their masked diff, and the journal of one at work.

A commit is written down as pending, with all that could have to be taken back, before it changes a
source; what decides whether it counts is the stage's database, which forgets its changes and notes
the commit in one transaction (`vfs.stage.store`). `recovery` reads the journal after a crash.
"""

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import TypeAdapter

from gateway import clock
from gateway.authority.keys import Keys
from gateway.commit.images import Kept
from gateway.commit.steps import AnyStep, Step
from gateway.errors import GrantfsError, NotFoundError

SCHEMA_VERSION = 3

_SCHEMA = """
-- One row per commit.
--   at        seconds since the epoch
--   paths     JSON list of paths relative to the mount's root
--   patch     its masked diff, sealed under the workspace's key (the agent's lines may hold
--             what the user would not want at rest)
--   state     'pending' until every source has it; 'landed' while something of it is still to be
--             cleared away; then 'done'
--   undoes    the commit that this one took back; NULL for one of staged changes
--   kept      1 while its steps and images are there, so that it can be undone
--   grants    the write grants that it stood on: JSON list of pairs of id and subject
CREATE TABLE commits (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    message TEXT NOT NULL,
    paths TEXT NOT NULL,
    patch BLOB NOT NULL,
    state TEXT NOT NULL DEFAULT 'done',
    undoes TEXT,
    kept INTEGER NOT NULL DEFAULT 0,
    grants TEXT NOT NULL DEFAULT '[]'
) STRICT;
"""

_JOURNAL = """
-- Sources of a commit, in the order in which they are changed; these tables hold pending commits
-- and those that can be undone.
--   name      of the grant at the mount's root
--   root      absolute canonical host path
--   shown     what a single file is called in the mount
--   is_file   1: a single granted file, 0: a folder
--   ino       of the folder, which has to be the same when something is taken back
CREATE TABLE journal_source (
    commit_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    name BLOB NOT NULL,
    root BLOB NOT NULL,
    shown BLOB NOT NULL,
    is_file INTEGER NOT NULL,
    ino TEXT NOT NULL,
    PRIMARY KEY (commit_id, number)
) STRICT, WITHOUT ROWID;

-- Folders in which the commit may have temporary files.
CREATE TABLE journal_folder (
    commit_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    path BLOB NOT NULL,
    PRIMARY KEY (commit_id, number, path)
) STRICT, WITHOUT ROWID;

-- Steps, in the order in which they are taken: JSON of pairs of a step (`gateway.commit.steps`) and
-- what an undo of it needs (`gateway.commit.images`), sealed: attributes may hold anything.
CREATE TABLE journal_step (
    id INTEGER PRIMARY KEY,
    commit_id TEXT NOT NULL,
    number INTEGER NOT NULL,
    steps BLOB NOT NULL
) STRICT;
"""


_PAIRS: TypeAdapter[list[tuple[AnyStep, Kept]]] = TypeAdapter(list[tuple[AnyStep, Kept]])


def _label(commit: str, number: int) -> bytes:
    return f"{commit}:{number}".encode()


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit. `paths` are relative to the mount's root; `grants` are ids and subjects of the
    write grants that it stood on, none for an undo."""

    id: str
    at: float
    message: str
    paths: list[str]
    undoes: str | None = None
    grants: list[tuple[str, str]] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """The object of `log`."""
        return {
            "commit": self.id,
            "at": clock.rfc3339(self.at),
            "message": self.message,
            "paths": self.paths,
            "undoes": self.undoes,
            "subject": ", ".join(sorted({subject for _grant, subject in self.grants})) or None,
            "grants": [grant for grant, _subject in self.grants],
        }


@dataclass(frozen=True, slots=True)
class PendingSource:
    """What a commit wrote down of one source; `kept` has an item for each step."""

    name: bytes
    root: bytes
    shown: bytes
    is_file: bool
    ino: int
    folders: list[bytes] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)


class CommitStore:
    """Commits of one workspace. Raises GrantfsError where the disk refuses."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self._keys = keys
        fresh = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        if fresh:
            os.chmod(path, 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        # What is written here is durable before anything follows from it.
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == SCHEMA_VERSION:
            return
        if version == 0:
            changes = _SCHEMA + _JOURNAL
        elif version in (1, 2):
            changes = "ALTER TABLE commits ADD COLUMN grants TEXT NOT NULL DEFAULT '[]';"
            if version == 1:
                changes += (
                    "ALTER TABLE commits ADD COLUMN state TEXT NOT NULL DEFAULT 'done';"
                    "ALTER TABLE commits ADD COLUMN undoes TEXT;"
                    "ALTER TABLE commits ADD COLUMN kept INTEGER NOT NULL DEFAULT 0;"
                )
                changes += _JOURNAL
        else:
            raise GrantfsError(f"commits of format {version}: use the grantfs that wrote them")
        self._db.executescript(f"BEGIN; {changes} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise GrantfsError(f"cannot record the commit: {error}") from error
            raise

    @staticmethod
    def new_id() -> str:
        """A name for a commit to come."""
        return "c" + secrets.token_hex(6)

    # -- the journal -----------------------------------------------------------------------

    def begin(self, commit: Commit, sources: Sequence[PendingSource]) -> None:
        """Write a pending commit down, before anything is written to a source."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO commits (id, at, message, paths, patch, state, undoes)"
                " VALUES (?,?,?,'[]',x'','pending',?)",
                (commit.id, commit.at, commit.message, commit.undoes),
            )
            for number, one in enumerate(sources):
                self._db.execute(
                    "INSERT INTO journal_source VALUES (?,?,?,?,?,?,?)",
                    (
                        commit.id,
                        number,
                        one.name,
                        one.root,
                        one.shown,
                        int(one.is_file),
                        str(one.ino),
                    ),
                )
                self._db.executemany(
                    "INSERT OR IGNORE INTO journal_folder VALUES (?,?,?)",
                    ((commit.id, number, folder) for folder in one.folders),
                )

    def intend(
        self, commit: str, number: int, steps: Sequence[Step], kept: Sequence[Kept] = ()
    ) -> None:
        """Write steps of a source down, before the first of them is taken, with what is kept of
        each, if anything is."""
        pairs = list(zip(steps, kept or (Kept(),) * len(steps), strict=True))
        sealed = self._keys.seal(_PAIRS.dump_json(pairs), _label(commit, number))
        with self._transaction():
            self._db.execute(
                "INSERT INTO journal_step (commit_id, number, steps) VALUES (?,?,?)",
                (commit, number, sealed),
            )

    def describe(self, commit: Commit, files: list[dict[str, object]], patch: bytes) -> None:
        """Record what a pending commit changes, in masked form."""
        body = json.dumps({"files": files, "patch": patch.decode("latin-1")}).encode()
        sealed = self._keys.seal(body, commit.id.encode())
        with self._transaction():
            self._db.execute(
                "UPDATE commits SET at = ?, paths = ?, grants = ?, patch = ? WHERE id = ?",
                (
                    commit.at,
                    json.dumps(commit.paths),
                    json.dumps(commit.grants),
                    sealed,
                    commit.id,
                ),
            )

    def keep(self, commit: str) -> None:
        """A pending commit has all that its undo needs."""
        with self._transaction():
            self._db.execute("UPDATE commits SET kept = 1 WHERE id = ?", (commit,))

    def finish(self, commit: str, *, landed: bool) -> None:
        """A pending commit is done, or nothing is left of it."""
        with self._transaction():
            if landed:
                self._db.execute("UPDATE commits SET state = 'done' WHERE id = ?", (commit,))
            else:
                self._db.execute("DELETE FROM commits WHERE id = ?", (commit,))
            self._drop_journal()

    def let_go(self, commit: str) -> None:
        """A commit can be undone no longer."""
        with self._transaction():
            self._db.execute("UPDATE commits SET kept = 0 WHERE id = ?", (commit,))
            self._drop_journal()

    def _drop_journal(self) -> None:
        for table in ("journal_source", "journal_folder", "journal_step"):
            self._db.execute(
                f"DELETE FROM {table} WHERE commit_id NOT IN"
                " (SELECT id FROM commits WHERE kept = 1 OR state != 'done')"
            )

    def note_landed(self, commit: str) -> None:
        """A pending commit is made, with something left to do."""
        with self._transaction():
            self._db.execute("UPDATE commits SET state = 'landed' WHERE id = ?", (commit,))

    def pending(self) -> list[str]:
        """Commits that were cut short, the oldest first."""
        rows = self._db.execute("SELECT id FROM commits WHERE state != 'done' ORDER BY rowid")
        return [row[0] for row in rows]

    def undoable(self) -> list[Commit]:
        """Commits that can be undone, newest first."""
        rows = self._db.execute("SELECT id FROM commits WHERE kept = 1 AND state != 'pending'")
        wanted = {row[0] for row in rows}
        return [commit for commit in self.all() if commit.id in wanted]

    def journal(self, commit: str) -> list[PendingSource]:
        """What a commit wrote down, source by source."""
        found = []
        for number, name, root, shown, is_file, ino in self._db.execute(
            "SELECT number, name, root, shown, is_file, ino FROM journal_source WHERE commit_id = ?"
            " ORDER BY number",
            (commit,),
        ).fetchall():
            key = (commit, number)
            folders = self._db.execute(
                "SELECT path FROM journal_folder WHERE commit_id = ? AND number = ?", key
            )
            rows = self._db.execute(
                "SELECT steps FROM journal_step WHERE commit_id = ? AND number = ? ORDER BY id", key
            )
            pairs = [
                pair
                for row in rows
                for pair in _PAIRS.validate_json(self._keys.unseal(row[0], _label(commit, number)))
            ]
            found.append(
                PendingSource(
                    name, root, shown, bool(is_file), int(ino), [row[0] for row in folders],
                    [step for step, _kept in pairs], [kept for _step, kept in pairs],
                )
            )  # fmt: skip
        return found

    # -- what was made ---------------------------------------------------------------------

    def all(self) -> list[Commit]:
        """Every commit, newest first."""
        rows = self._db.execute(
            "SELECT id, at, message, paths, undoes, grants FROM commits WHERE state != 'pending'"
            " ORDER BY rowid DESC"
        )
        return [
            Commit(
                one, at, message, json.loads(paths), undoes,
                [(grant, subject) for grant, subject in json.loads(grants)],
            )
            for one, at, message, paths, undoes, grants in rows
        ]  # fmt: skip

    def find(self, prefix: str) -> Commit:
        """A commit by its id or an unambiguous beginning of it. Raises NotFoundError."""
        found = [commit for commit in self.all() if commit.id.startswith(prefix)] if prefix else []
        if len(found) != 1:
            why = "no" if not found else "more than one"
            raise NotFoundError(f"{why} commit {prefix!r}: `grantfs log` lists them")
        return found[0]

    def show(self, prefix: str) -> tuple[Commit, list[dict[str, object]], bytes]:
        """A commit (see `find`), its files as `diff` gives them, and its patch."""
        commit = self.find(prefix)
        (sealed,) = self._db.execute(
            "SELECT patch FROM commits WHERE id = ?", (commit.id,)
        ).fetchone()
        body = json.loads(self._keys.unseal(sealed, commit.id.encode()))
        return commit, body["files"], body["patch"].encode("latin-1")
