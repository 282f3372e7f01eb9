"""The control protocol: every request as a pydantic model, unknown fields refused.

A request is `{"op": NAME, …}`; the reply `{"ok": true, "result": …, "notes": […]}` or
`{"ok": false, "error": {"message": …, "exit_code": …}}`, before which lines `{"part": …}` may come
where an answer is large. Paths travel as lists of forms of one
argument, best first (see `Workspace.resolve`), names that are not UTF-8 with surrogate escapes.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from gateway.errors import GrantfsError

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""A request line above this is refused unread."""

Text = Annotated[str, Field(max_length=8192)]
Path = Annotated[list[Text], Field(min_length=1, max_length=4)]
Paths = Annotated[list[Path], Field(max_length=50_000)]
Ids = Annotated[list[Text], Field(max_length=100_000)]
Size = Annotated[int, Field(gt=0, lt=1 << 63)]
Days = Annotated[int, Field(gt=0, le=36500)]
Seconds = Annotated[int, Field(gt=0, le=36500 * 86400)]


class Message(BaseModel):
    """A part of the protocol: strict types, no unknown fields."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class WantedGrant(Message):
    """One grant to make; `seconds` None: until revoked."""

    path: Text
    access: Literal["list", "read", "write"] = "write"
    mounted_as: Text | None = None
    seconds: Seconds | None = None
    subject: Annotated[str, Field(min_length=1, max_length=200)] = "agent"
    profile: Text = "secrets"
    reason: Annotated[str, Field(max_length=1000)] | None = None


class Info(Message):
    """What is running here."""

    op: Literal["info"]


class Stop(Message):
    """Unmount and end; `force` also while files are open."""

    op: Literal["stop"]
    force: bool = False


class MakeGrants(Message):
    """Make grants; with `keep`, a path that is granted already is left as it is."""

    op: Literal["grant"]
    grants: Annotated[list[WantedGrant], Field(min_length=1, max_length=1000)]
    keep: bool = False


class ListGrants(Message):
    """Grants, live ones or all."""

    op: Literal["grants"]
    all: bool = False


class Renew(Message):
    """A later end for a live grant."""

    op: Literal["renew"]
    grant: Text
    seconds: Seconds | None


class Revoke(Message):
    """End grants by id or path, or all of them."""

    op: Literal["revoke"]
    grants: Paths = []
    all: bool = False


class Status(Message):
    """Staged changes, with what they amount to; `exact`: their names in full, too."""

    op: Literal["status"]
    paths: Paths = []
    exact: bool = False


class Diff(Message):
    """Staged changes as a diff, in parts."""

    op: Literal["diff"]
    paths: Paths = []
    exact: bool = False
    binary: bool = False


class Export(Message):
    """What the mount shows of staged changes, as a tar, in parts."""

    op: Literal["export"]
    paths: Paths = []


class EditedHunk(Message):
    """A hunk as the user worded it; lines as in a patch, one byte a character (Latin-1)."""

    path: Text
    old_start: Annotated[int, Field(ge=0)]
    lines: Annotated[list[str], Field(max_length=1_000_000)]


class Commit(Message):
    """Put staged changes into the sources; with `hunks` or `edited`, only these, and
    the paths in `also` whole."""

    op: Literal["commit"]
    paths: Paths = []
    message: Annotated[str, Field(max_length=100_000)] = ""
    digest: Text | None = None
    placeholders: Literal["ask", "restore", "keep"] = "ask"
    hunks: Ids = []
    edited: Annotated[list[EditedHunk], Field(max_length=10_000)] = []
    also: Paths = []
    on_conflict: Literal["refuse", "merge", "overwrite"] = "refuse"
    everything: bool = False
    without_undo: bool = False


class Discard(Message):
    """Drop staged changes."""

    op: Literal["discard"]
    paths: Paths = []
    hunks: Ids = []


class Log(Message):
    """Commits made."""

    op: Literal["log"]


class Show(Message):
    """One commit."""

    op: Literal["show"]
    commit: Text


class Undo(Message):
    """Take a commit back out of the sources: the newest one, or the one named."""

    op: Literal["undo"]
    commit: Text | None = None


class Scan(Message):
    """What redaction would mask in files of this workspace."""

    op: Literal["scan"]
    paths: Paths


class Configure(Message):
    """Settings that take effect at once; None leaves one as it is. Sizes in bytes."""

    op: Literal["configure"]
    ask: bool | None = None
    ask_timeout: Seconds | None = None
    stage_limit: Size | None = None
    undo_limit: Size | None = None
    undo_days: Days | None = None


class FlushAudit(Message):
    """Write what the log has queued, so that a reader of its file sees it."""

    op: Literal["flush-audit"]


Request = Annotated[
    Info | Stop | MakeGrants | ListGrants | Renew | Revoke | Status | Diff | Export | Commit
    | Discard | Log | Show | Undo | Scan | FlushAudit | Configure,
    Field(discriminator="op"),
]  # fmt: skip

_adapter: TypeAdapter[Request] = TypeAdapter(Request)


def parse(line: bytes) -> Request:
    """The request of one line. Raises GrantfsError for anything that is none."""
    try:
        return _adapter.validate_json(line)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in first["loc"])
        raise GrantfsError(f"bad request: {place or 'request'}: {first['msg']}") from error


class StartUp(Message):
    """What `up` hands a new daemon on its standard input."""

    name: Text
    mountpoint: Text | None = None
    adapter: Literal["pyfuse3", "mfusepy"] | None = None
    agent_user: Text | None = None
    ask: bool | None = None
    ask_timeout: Seconds | None = None
    stage_limit: Size | None = None
    undo_limit: Size | None = None
    undo_days: Days | None = None
    grants: Annotated[list[WantedGrant], Field(max_length=1000)] = []


_start_adapter = TypeAdapter(StartUp)


def parse_start(line: bytes) -> StartUp:
    """The start-up message. Raises GrantfsError."""
    try:
        return _start_adapter.validate_json(line)
    except ValidationError as error:
        raise GrantfsError(f"bad start-up message: {error.errors()[0]['msg']}") from error
