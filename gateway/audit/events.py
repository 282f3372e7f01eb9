"""The closed vocabulary of the log: which events exist, and which details each may carry.

The vocabulary is what keeps contents out: a detail that is not declared here for its event is
refused where it is offered, so a new field is a decision made in this file. No field holds
contents, command lines, or text that an agent wrote (a request's reason stays with the request).
`docs/audit.md` lists the same table for users; a test holds the two together.

Anyone may import this module; it does no input or output.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final, TypeAlias

from gateway.audit.errors import EventError

Scalar: TypeAlias = str | int | bool | None
Offered: TypeAlias = Mapping[str, str | int | bool | bytes | None]

SCHEMA_VERSION: Final = 1
"""The version of what a record means; raised when a field changes meaning."""

OUTCOMES: Final = frozenset({"ok", "refused", "failed"})

_INT_LIMIT: Final = 1 << 63
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Event(StrEnum):
    """What happened. The value is the name in JSON, in `--event` and on disk; never reuse one."""

    WORKSPACE_UP = "workspace.up"
    WORKSPACE_DOWN = "workspace.down"
    DAEMON_START = "daemon.start"
    DAEMON_STOP = "daemon.stop"
    DAEMON_RECOVERED = "daemon.recovered"
    GRANT = "grant"
    GRANT_RENEWED = "grant.renewed"
    REVOKE = "revoke"
    EXPIRE = "expire"
    TOKEN = "token"
    REQUEST = "request"
    DECISION = "decision"
    OPEN = "open"
    REFUSE = "refuse"
    STAGE = "stage"
    REVIEW = "review"
    COMMIT = "commit"
    DISCARD = "discard"
    UNDO = "undo"
    POLICY = "policy"
    GAP = "gap"
    LOG_RECOVERED = "log.recovered"


@dataclass(frozen=True, slots=True)
class Declared:
    """One event's meaning in a sentence, and its detail fields with the type of each.

    The type `bytes` marks a name in the mount: it is offered as bytes and kept losslessly.
    Every field may be absent or None.
    """

    meaning: str
    fields: Mapping[str, type]


_CHANGE_COUNTS: Final[dict[str, type]] = {
    "digest": str,
    "changes": int,
    "conflicts": int,
    "undecided": int,
    "remaining": int,
}

VOCABULARY: Final[Mapping[Event, Declared]] = {
    Event.WORKSPACE_UP: Declared(
        "the workspace was mounted",
        {"mountpoint": str, "adapter": str, "ask": bool, "ask_timeout": int, "agent_user": str},
    ),
    Event.WORKSPACE_DOWN: Declared(
        "the workspace was unmounted", {"mountpoint": str, "forced": bool}
    ),
    Event.DAEMON_START: Declared(
        "a daemon started serving the workspace",
        {"version": str, "key_storage": str, "policy_version": str},
    ),
    Event.DAEMON_STOP: Declared("the daemon stopped in order", {"cause": str}),
    Event.DAEMON_RECOVERED: Declared(
        "a daemon found what a crash had left, and mended it",
        {"stale_mount": bool, "staged": int, "commit": str, "journal": str},
    ),
    Event.GRANT: Declared(
        "the user granted a path or a host",
        {
            "scope": str,
            "access": str,
            "redact": str,
            "expires_at": str,
            "shortened": bool,
            "request": str,
            "by": str,
        },
    ),
    Event.GRANT_RENEWED: Declared(
        "a grant was given a later end", {"scope": str, "expires_at": str, "shortened": bool}
    ),
    Event.REVOKE: Declared(
        "the user ended a grant", {"scope": str, "handles": int, "staged": int, "by": str}
    ),
    Event.EXPIRE: Declared(
        "a grant reached its end", {"scope": str, "handles": int, "staged": int}
    ),
    Event.TOKEN: Declared(
        "a token was shown, narrowed, used or checked",
        {"action": str, "token": str, "scope": str, "expires_at": str, "why": str},
    ),
    Event.REQUEST: Declared(
        "an access waits for the user",
        {"request": str, "scope": str, "action": str, "rule": str, "layer": str},
    ),
    Event.DECISION: Declared(
        "a request was answered, or stopped waiting",
        {
            "request": str,
            "decision": str,
            "scope": str,
            "access": str,
            "once": bool,
            "expires_at": str,
            "by": str,
        },
    ),
    Event.OPEN: Declared(
        "a file was opened",
        {"access": str, "size": int, "masked": int, "staged": bool, "count": int},
    ),
    Event.REFUSE: Declared(
        "an access was refused",
        {"action": str, "errno": str, "rule": str, "layer": str, "why": str, "count": int},
    ),
    Event.STAGE: Declared(
        "a change was staged", {"action": str, "kind": str, "from": bytes, "size": int}
    ),
    Event.REVIEW: Declared("the user looked at staged changes", _CHANGE_COUNTS | {"flags": int}),
    Event.COMMIT: Declared(
        "staged changes were put into the sources: the intent, each file, the result",
        _CHANGE_COUNTS
        | {
            "commit": str,
            "phase": str,
            "applied": int,
            "kind": str,
            "from": bytes,
            "restored": int,
            "kept": int,
            "merged": bool,
            "overwritten": bool,
        },
    ),
    Event.DISCARD: Declared(
        "staged changes were dropped", {"digest": str, "changes": int, "kind": str, "hunks": int}
    ),
    Event.UNDO: Declared(
        "a commit was taken back out of the sources",
        {"commit": str, "undoes": str, "phase": str, "restored": int, "conflicts": int},
    ),
    Event.POLICY: Declared(
        "a policy file or rule pack came into force, changed, or was refused",
        {
            "layer": str,
            "file": str,
            "policy_version": str,
            "rules_version": str,
            "rules": int,
            "why": str,
        },
    ),
    Event.GAP: Declared(
        "events are missing here, or the log could not be written for a while",
        {"dropped": int, "since": str, "until": str, "why": str, "error": str},
    ),
    Event.LOG_RECOVERED: Declared(
        "the log was not closed in order before this entry",
        {"unsigned": int, "signed_seq": int},
    ),
}


@dataclass(frozen=True, slots=True)
class Actor:
    """The process that acted: its pid in the daemon's namespace, its uid, its executable's path.

    A caller can fake `exe`; it informs and never proves. Raises EventError on a wrong type.
    """

    pid: int
    uid: int
    exe: str | None = None

    def __post_init__(self) -> None:
        _require(type(self.pid) is int and abs(self.pid) < _INT_LIMIT, "pid must be an int")
        _require(type(self.uid) is int and abs(self.uid) < _INT_LIMIT, "uid must be an int")
        _require(self.exe is None or isinstance(self.exe, str), "exe must be a str")


@dataclass(frozen=True, slots=True)
class Record:
    """One entry as it stands in the log.

    `time` is microseconds since 1970 UTC, `raw_path` the exact bytes of the path relative to the
    mount's root (None: the event is about no file; b"": the root), `version` the schema's.
    """

    seq: int
    time: int
    event: Event
    outcome: str
    subject: str | None
    actor: Actor | None
    raw_path: bytes | None
    grant: str | None
    detail: Mapping[str, Scalar]
    version: int = SCHEMA_VERSION

    @property
    def path(self) -> str | None:
        """The path as `show_name` gives it; exact unless the name is not UTF-8."""
        return None if self.raw_path is None else show_name(self.raw_path)

    def to_json(self) -> dict[str, object]:
        """The object that `audit --json` prints, keys as `cli.md` has them.

        `path_hex` is added, with the raw bytes, when the path is not UTF-8.
        """
        actor = self.actor
        shown: dict[str, object] = {
            "seq": self.seq,
            "time": rfc3339(self.time),
            "event": self.event.value,
            "outcome": self.outcome,
            "subject": self.subject,
            "actor": actor and {"pid": actor.pid, "uid": actor.uid, "exe": actor.exe},
            "path": self.path,
            "grant": self.grant,
            "detail": dict(self.detail),
            "version": self.version,
        }
        if self.raw_path is not None and not is_utf8(self.raw_path):
            shown["path_hex"] = self.raw_path.hex()
        return shown


def rfc3339(micros: int) -> str:
    """Microseconds since 1970 as RFC 3339 UTC, such as 2026-01-02T03:04:05.000006Z.

    A time that no calendar holds (a changed entry may have one) is given as the bare number.
    """
    try:
        moment = _EPOCH + timedelta(microseconds=micros)
    except OverflowError:
        return str(micros)
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def micros(moment: datetime) -> int:
    """The inverse of `rfc3339` for an aware datetime; raises ValueError for a naive one."""
    if moment.tzinfo is None:
        raise ValueError("a time without a zone")
    return (moment - _EPOCH) // timedelta(microseconds=1)


def is_utf8(name: bytes) -> bool:
    """Whether the name is shown exactly as it is."""
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True


def show_name(name: bytes) -> str:
    r"""A name as text. UTF-8 is shown as it is, a backslash in it too.

    Otherwise each byte that is not UTF-8 is `\xNN` and each backslash is doubled, so that within
    the names that need escaping the form is lossless; `…_hex` beside it says which form it is.
    """
    try:
        return name.decode()
    except UnicodeDecodeError:
        return name.replace(b"\\", b"\\\\").decode("utf-8", "backslashreplace")


def check(
    event: Event,
    outcome: str,
    subject: str | None,
    actor: Actor | None,
    path: bytes | None,
    grant: str | None,
    detail: Offered | None,
) -> None:
    """Raise EventError unless all this may stand in one entry. Part of the hot path: under a µs."""
    declared = VOCABULARY.get(event)
    if declared is None:
        raise EventError(f"{event!r} is not an event of the log")
    if outcome not in OUTCOMES:
        raise EventError(f"{event}: {outcome!r} is not an outcome")
    # An entry that can't be encoded later would stop the writer, so types are settled here.
    _require(path is None or type(path) is bytes, "path must be bytes")
    _require(subject is None or isinstance(subject, str), "subject must be a str")
    _require(grant is None or isinstance(grant, str), "grant must be a str")
    _require(actor is None or type(actor) is Actor, "actor must be an Actor")
    if detail:
        fields = declared.fields
        for key, value in detail.items():
            if type(value) is not fields.get(key):
                _check_field(event, fields, key, value)
            elif isinstance(value, int) and not -_INT_LIMIT <= value < _INT_LIMIT:
                raise EventError(f"{event}: {key} is out of range")


def _check_field(event: Event, fields: Mapping[str, type], key: str, value: object) -> None:
    wanted = fields.get(key)
    if wanted is None:
        raise EventError(f"{event}: {key!r} is not declared for this event")
    if value is None or (wanted is str and isinstance(value, str)):  # a StrEnum member is a str
        return
    raise EventError(f"{event}: {key} must be {wanted.__name__}, not {type(value).__name__}")


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise EventError(message)
