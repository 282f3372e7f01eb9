"""The store of grants: what the user allowed, until when, and whether it is still so.

A grant counts only while its token's signature holds, it is not revoked, and neither the wall
clock nor the boot clock has reached its end: setting the clock back gains nothing.
"""

import os
import secrets
import sqlite3
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from gateway import clock
from gateway.audit.events import show_name
from gateway.authority.keys import Keys
from gateway.authority.tokens import Token, TokenError, verify
from gateway.errors import GrantfsError, NotFoundError

AccessName = Literal["list", "read", "write"]
ACCESSES: tuple[AccessName, ...] = get_args(AccessName)

SCHEMA_VERSION = 1

_SCHEMA = """
-- One row per grant ever made.
--   projection    number of the projection that shows it (see the stage's store)
--   path          canonical absolute host path
--   mounted_as    name at the mount's root
--   *_at          seconds since the epoch; expires_at NULL: until revoked
--   boot_id       the run of the machine it was made in, and
--   boot_end      its end on that run's boot clock (NULL: none)
--   token         the signed form; all that is enforced is checked against it at load
CREATE TABLE grants (
    id TEXT PRIMARY KEY,
    projection INTEGER NOT NULL,
    path BLOB NOT NULL,
    mounted_as BLOB NOT NULL,
    access TEXT NOT NULL,
    subject TEXT NOT NULL,
    profile TEXT NOT NULL,
    reason TEXT,
    issued_at REAL NOT NULL,
    expires_at REAL,
    boot_id TEXT NOT NULL,
    boot_end REAL,
    revoked_at REAL,
    ended INTEGER NOT NULL DEFAULT 0,
    last_used_at REAL,
    uses INTEGER NOT NULL DEFAULT 0,
    token TEXT NOT NULL
) STRICT;
"""

_COLUMNS = (
    "id, projection, path, mounted_as, access, subject, profile, reason, issued_at, expires_at,"
    " boot_id, boot_end, revoked_at, ended, last_used_at, uses, token"
)


def scopes_for(access: AccessName, path: bytes) -> tuple[str, ...]:
    """The scopes that an access to a path stands for; each includes the ones before it."""
    upto = ACCESSES.index(access) + 1
    return tuple(f"file:{kind}:{show_name(path)}" for kind in ACCESSES[:upto])


@dataclass(slots=True)
class Grant:
    """One grant; see the columns of the table."""

    id: str
    projection: int
    path: bytes
    mounted_as: bytes
    access: AccessName
    subject: str
    profile: str
    reason: str | None
    issued_at: float
    expires_at: float | None
    boot_id: str
    boot_end: float | None
    revoked_at: float | None
    ended: bool
    last_used_at: float | None
    uses: int
    token: str

    @property
    def scopes(self) -> tuple[str, ...]:
        """Its scopes."""
        return scopes_for(self.access, self.path)

    def seconds_left(self, boot_id: str) -> float | None:
        """Seconds until it ends by either clock (0 or less: over), None if it has no end."""
        if self.expires_at is None:
            return None
        left = self.expires_at - clock.now()
        if self.boot_end is not None and self.boot_id == boot_id:
            left = min(left, self.boot_end - clock.boot_now())
        return left

    def status(self, boot_id: str) -> Literal["live", "expired", "revoked"]:
        """What has become of it."""
        if self.revoked_at is not None:
            return "revoked"
        left = self.seconds_left(boot_id)
        return "expired" if self.ended or (left is not None and left <= 0) else "live"

    def to_json(self, boot_id: str) -> dict[str, Any]:
        """The object that `cli.md` names."""
        return {
            "id": self.id,
            "scopes": list(self.scopes),
            "path": show_name(self.path),
            "mounted_as": show_name(self.mounted_as),
            "access": self.access,
            "subject": self.subject,
            "redact": self.profile,
            "reason": self.reason,
            "issued_at": clock.rfc3339(self.issued_at),
            "expires_at": clock.rfc3339(self.expires_at),
            "last_used_at": clock.rfc3339(self.last_used_at),
            "uses": self.uses,
            "status": self.status(boot_id),
        }


class GrantStore:
    """Grants of one workspace in SQLite; the daemon's core task alone uses it."""

    def __init__(self, path: Path, keys: Keys, workspace: str) -> None:
        self._keys = keys
        self._workspace = workspace
        self.boot_id = clock.boot_id()
        fresh = not path.exists()
        self._db = sqlite3.connect(path, isolation_level=None)
        if fresh:
            os.chmod(path, 0o600)
        self._db.execute("PRAGMA journal_mode = WAL")
        # A revocation that was told as done must not be undone by a power cut.
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            self._db.executescript(
                f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;"
            )
        elif version != SCHEMA_VERSION:
            raise GrantfsError(f"grants of format {version}: use the grantfs that wrote them")
        self._grants = {}
        for row in self._db.execute(f"SELECT {_COLUMNS} FROM grants ORDER BY rowid"):
            grant = Grant(*row)
            grant.ended = bool(grant.ended)
            self._check(grant)
            self._grants[grant.id] = grant
        self._unsaved_uses: set[str] = set()

    def close(self) -> None:
        """Save use counts and close."""
        self.save_uses()
        self._db.close()

    def _check(self, grant: Grant) -> None:
        """Refuse a row that says more than its signed token."""
        try:
            token = verify(grant.token, self._keys.signing.public_key())
        except TokenError as error:
            raise GrantfsError(f"grant {grant.id} in the store: {error.message}") from error
        if (
            token.id != grant.id
            or token.workspace != self._workspace
            or token.owner != os.getuid()
            or token.scopes != grant.scopes
            or token.subject != grant.subject
            or token.expires_at != grant.expires_at
        ):
            raise GrantfsError(f"grant {grant.id} in the store does not agree with its token")

    def all(self) -> list[Grant]:
        """Every grant, oldest first."""
        return list(self._grants.values())

    def live(self) -> list[Grant]:
        """Those that count now."""
        return [grant for grant in self._grants.values() if grant.status(self.boot_id) == "live"]

    def get(self, grant_id: str) -> Grant:
        """A grant by its id. Raises NotFoundError."""
        grant = self._grants.get(grant_id)
        if grant is None:
            raise NotFoundError(f"no grant {grant_id!r}: `grantfs grants --all` lists them")
        return grant

    def _sign(self, grant: Grant) -> str:
        return Token(
            id=grant.id,
            issuer=f"grantfs:{self._workspace}",
            subject=grant.subject,
            workspace=self._workspace,
            owner=os.getuid(),
            scopes=grant.scopes,
            issued_at=grant.issued_at,
            expires_at=grant.expires_at,
        ).sign(self._keys.signing)

    def add(
        self,
        *,
        projection: int,
        path: bytes,
        mounted_as: bytes,
        access: AccessName,
        subject: str,
        profile: str,
        reason: str | None,
        seconds: int | None,
    ) -> Grant:
        """Make a grant; durable on return. `seconds` None: until revoked."""
        issued = round(clock.now(), 3)
        grant = Grant(
            id="g" + secrets.token_hex(5),
            projection=projection,
            path=path,
            mounted_as=mounted_as,
            access=access,
            subject=subject,
            profile=profile,
            reason=reason,
            issued_at=issued,
            expires_at=None if seconds is None else issued + seconds,
            boot_id=self.boot_id,
            boot_end=None if seconds is None else clock.boot_now() + seconds,
            revoked_at=None,
            ended=False,
            last_used_at=None,
            uses=0,
            token="",
        )
        grant.token = self._sign(grant)
        self._save(grant)
        self._grants[grant.id] = grant
        return grant

    def renew(self, grant: Grant, seconds: int | None) -> None:
        """Give a live grant a new end, counted from now."""
        now = round(clock.now(), 3)
        grant.expires_at = None if seconds is None else now + seconds
        grant.boot_id = self.boot_id
        grant.boot_end = None if seconds is None else clock.boot_now() + seconds
        grant.token = self._sign(grant)
        self._save(grant)

    def revoke(self, grant: Grant) -> None:
        """End a grant for good; durable on return."""
        if grant.revoked_at is None:
            grant.revoked_at = round(clock.now(), 3)
            self._save(grant)

    def end(self, grant: Grant) -> None:
        """Note that a grant's time is over, so that no clock can bring it back."""
        grant.ended = True
        self._save(grant)

    def used(self, projection: int) -> None:
        """Count a use of the live grants of a projection, in memory until `save_uses`."""
        now = clock.now()
        for grant in self._grants.values():
            if grant.projection == projection and grant.revoked_at is None and not grant.ended:
                grant.last_used_at = now
                grant.uses += 1
                self._unsaved_uses.add(grant.id)

    def save_uses(self) -> None:
        """Write use counts that changed."""
        changed, self._unsaved_uses = self._unsaved_uses, set()
        self._save(*(self._grants[grant_id] for grant_id in changed))

    def _put(self, grant: Grant) -> None:
        self._db.execute(
            f"INSERT OR REPLACE INTO grants ({_COLUMNS}) VALUES ({','.join('?' * 17)})",
            (
                grant.id, grant.projection, grant.path, grant.mounted_as, grant.access,
                grant.subject, grant.profile, grant.reason, grant.issued_at, grant.expires_at,
                grant.boot_id, grant.boot_end, grant.revoked_at, int(grant.ended),
                grant.last_used_at, grant.uses, grant.token,
            ),
        )  # fmt: skip

    def _save(self, *grants: Grant) -> None:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for grant in grants:
                self._put(grant)
            self._db.execute("COMMIT")
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise GrantfsError(f"cannot write the grants: {error}; free some disk space") from error
