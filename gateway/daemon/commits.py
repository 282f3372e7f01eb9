"""The record of commits: when, what for, which paths, and the masked diff, sealed."""

import json
import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from gateway import clock
from gateway.authority.keys import Keys
from gateway.errors import GrantfsError, NotFoundError

SCHEMA_VERSION = 1

_SCHEMA = """
-- One row per commit that applied something.
--   at        seconds since the epoch
--   paths     JSON list of paths relative to the mount's root
--   patch     its masked diff, sealed under the workspace's key (the agent's lines may hold
--             what the user would not want at rest)
CREATE TABLE commits (
    id TEXT PRIMARY KEY,
    at REAL NOT NULL,
    message TEXT NOT NULL,
    paths TEXT NOT NULL,
    patch BLOB NOT NULL
) STRICT;
"""


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit; `patch` holds one JSON object a file, as `show` gives them."""

    id: str
    at: float
    message: str
    paths: list[str]

    def to_json(self) -> dict[str, object]:
        """The object of `log`."""
        return {
            "commit": self.id,
            "at": clock.rfc3339(self.at),
            "message": self.message,
            "paths": self.paths,
        }


class CommitStore:
    """Commits of one workspace. Raises GrantfsError where the disk refuses."""

    def __init__(self, path: Path, keys: Keys) -> None:
        self._keys = keys
        fresh = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None)
        if fresh:
            os.chmod(path, 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise GrantfsError(f"commits of format {version}: use the grantfs that wrote them")

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    @staticmethod
    def new_id() -> str:
        """A name for a commit to come."""
        return "c" + secrets.token_hex(6)

    def add(self, commit: Commit, files: list[dict[str, object]], patch: bytes) -> None:
        """Record a commit with what it changed, in masked form."""
        body = json.dumps({"files": files, "patch": patch.decode("latin-1")}).encode()
        sealed = self._keys.seal(body, commit.id.encode())
        try:
            self._db.execute(
                "INSERT INTO commits VALUES (?,?,?,?,?)",
                (commit.id, commit.at, commit.message, json.dumps(commit.paths), sealed),
            )
        except sqlite3.Error as error:
            raise GrantfsError(f"cannot record the commit: {error}") from error

    def all(self) -> list[Commit]:
        """Every commit, newest first."""
        rows = self._db.execute("SELECT id, at, message, paths FROM commits ORDER BY rowid DESC")
        return [Commit(row[0], row[1], row[2], json.loads(row[3])) for row in rows]

    def show(self, prefix: str) -> tuple[Commit, list[dict[str, object]], bytes]:
        """A commit by its id or an unambiguous beginning of it. Raises NotFoundError."""
        found = [commit for commit in self.all() if commit.id.startswith(prefix)] if prefix else []
        if len(found) != 1:
            why = "no" if not found else "more than one"
            raise NotFoundError(f"{why} commit {prefix!r}: `grantfs log` lists them")
        (sealed,) = self._db.execute(
            "SELECT patch FROM commits WHERE id = ?", (found[0].id,)
        ).fetchone()
        body = json.loads(self._keys.unseal(sealed, found[0].id.encode()))
        return found[0], body["files"], body["patch"].encode("latin-1")
