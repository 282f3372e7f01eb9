"""A record as one plain English sentence, for `audit show` on a terminal.

Names come from files and processes that an agent may have made: whatever could move the cursor,
reorder the line or hide in it is shown as an escape. The sentence carries no time and no number;
the caller sets those beside it.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Final

from gateway.audit.events import Event, Record, Scalar

# Control, format (bidi and zero-width included), surrogate, private use, unassigned; line and
# paragraph separators.
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def visible(text: str) -> str:
    r"""The text with every invisible character as `\n`, `\x1b`, `\u202e` and so on."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        _escape(char) if unicodedata.category(char) in _HIDDEN else char for char in text
    )


def sentence(record: Record) -> str:
    """What happened, in one line that is safe to print and ends with a full stop."""
    words = _SENTENCES[record.event](record)
    if record.outcome == "failed" and record.event is not Event.GAP:
        words += ", which failed"
    elif record.outcome == "refused" and record.event is not Event.REFUSE:
        words += ", which was refused"
    actor = record.actor
    if actor is not None:
        program = f"{visible(actor.exe)}, " if actor.exe else ""
        words += f" ({program}pid {actor.pid}, uid {actor.uid})"
    return words[0].upper() + words[1:] + "."


def _escape(char: str) -> str:
    return char.encode("unicode_escape", "surrogatepass").decode("ascii")


def _who(record: Record) -> str:
    return visible(record.subject) if record.subject else "someone"


def _what(record: Record) -> str:
    if record.path is None:
        return "a file"
    return visible(record.path) if record.path else "the mount's root"


def _text(detail: Mapping[str, Scalar], key: str, before: str = "", after: str = "") -> str:
    """The value with words around it; nothing if it is not there."""
    value = detail.get(key)
    return "" if value is None or value is False else f"{before}{visible(str(value))}{after}"


def _count(detail: Mapping[str, Scalar], key: str, one: str, before: str = ", ") -> str:
    """`, 3 hunks` for one hunk and 3; nothing for none."""
    value = detail.get(key)
    return f"{before}{value} {one}{'' if value == 1 else 's'}" if value else ""


def _times(detail: Mapping[str, Scalar]) -> str:
    count = detail.get("count")
    return f", {count} times" if isinstance(count, int) and count > 1 else ""


def _up(record: Record) -> str:
    where = _text(record.detail, "mountpoint", " at ")
    return f"the workspace was mounted{where}{_text(record.detail, 'adapter', ' through ')}"


def _down(record: Record) -> str:
    forced = " by force" if record.detail.get("forced") else ""
    return f"the workspace was unmounted{forced}{_text(record.detail, 'mountpoint', ' from ')}"


def _started(record: Record) -> str:
    keys = _text(record.detail, "key_storage", ", with its keys in ")
    return f"a daemon{_text(record.detail, 'version', ' of version ')} started{keys}"


def _recovered(record: Record) -> str:
    detail = record.detail
    mended = [
        "a stale mount was removed" if detail.get("stale_mount") else "",
        _count(detail, "staged", "staged change", "")
        and "the stage was kept with " + _count(detail, "staged", "change", ""),
        _text(detail, "commit", "commit ") + _text(detail, "journal", " was "),
    ]
    done = " and ".join(part for part in mended if part)
    return f"the daemon recovered from a crash{done and ': '}{done}"


def _granted(record: Record) -> str:
    detail = record.detail
    what = _text(detail, "scope") or _what(record)
    until = _text(detail, "expires_at", " until ")
    shortened = ", shortened by policy" if detail.get("shortened") else ""
    access = _text(detail, "access", after=" access to ")
    return f"{_who(record)} was granted {access}{what}{until}{shortened}"


def _renewed(record: Record) -> str:
    until = _text(record.detail, "expires_at", " until ")
    return f"{_grant(record)} was renewed{until}"


def _ended(words: str) -> Callable[[Record], str]:
    def say(record: Record) -> str:
        handles = _count(record.detail, "handles", "open handle", ", and ended ")
        staged = _count(record.detail, "staged", "staged change", ", leaving ")
        return f"{_grant(record)} {words}{handles}{staged}"

    return say


def _grant(record: Record) -> str:
    name = f"grant {visible(record.grant)}" if record.grant else "a grant"
    return name + _text(record.detail, "scope", " of ")


def _token(record: Record) -> str:
    name = _text(record.detail, "token", "token ") or "a token"
    doing = _text(record.detail, "action", ": ")
    return (
        f"{name}{_text(record.detail, 'scope', ' for ')}{doing}{_text(record.detail, 'why', ', ')}"
    )


def _request(record: Record) -> str:
    what = _text(record.detail, "scope") or _what(record)
    return f"{_who(record)} asked for {what}{_text(record.detail, 'rule', ' under rule ')}"


def _decision(record: Record) -> str:
    detail = record.detail
    name = _text(detail, "request", "request ") or "a request"
    once = " once" if detail.get("once") else ""
    answer = _text(detail, "decision", ": ")
    what = _text(detail, "scope", ", ")
    return f"{name} of {_who(record)} was answered{answer}{once}{what}"


def _opened(record: Record) -> str:
    detail = record.detail
    masked = _count(detail, "masked", "finding")
    return (
        f"{_who(record)} opened {_what(record)}{_text(detail, 'access', ' for ')}"
        f"{masked and masked + ' masked'}{_times(detail)}"
    )


def _refused(record: Record) -> str:
    detail = record.detail
    because = _text(detail, "rule", " by rule ") or _text(detail, "why", ": ")
    return (
        f"{_who(record)} was refused {_text(detail, 'action', after=' of ') or 'access to '}"
        f"{_what(record)}{because}{_text(detail, 'errno', ' (', ')')}{_times(detail)}"
    )


def _staged(record: Record) -> str:
    action = _text(record.detail, "action") or _text(record.detail, "kind") or "change"
    return (
        f"{_who(record)} staged {_what(record)}: {action}{_text(record.detail, 'from', ' from ')}"
    )


def _reviewed(record: Record) -> str:
    changes = _count(record.detail, "changes", "staged change", "") or "no staged changes"
    return f"the user looked at {changes}{_count(record.detail, 'flags', 'flag', ' with ')}"


def _committed(record: Record) -> str:
    detail = record.detail
    name = _text(detail, "commit", "commit ") or "a commit"
    phase = _text(detail, "phase", ", ")
    if record.path is not None:
        restored = _count(detail, "restored", "masked secret", ", with ")
        return (
            f"{name} put {_what(record)} into its source{_text(detail, 'kind', ' as ')}"
            f"{restored and restored + ' put back'}{phase}"
        )
    counts = "".join(
        _text(detail, key, ", ", f" {key}") for key in ("applied", "conflicts", "undecided")
    )
    return f"{name} of {_count(detail, 'changes', 'change', '') or 'staged changes'}{phase}{counts}"


def _discarded(record: Record) -> str:
    if record.path is not None:
        hunks = _count(record.detail, "hunks", "hunk", "")
        return f"{hunks or 'the staged change'} of {_what(record)} was discarded"
    return f"{_count(record.detail, 'changes', 'staged change', '') or 'staged changes'} discarded"


def _undone(record: Record) -> str:
    detail = record.detail
    restored = _count(detail, "restored", "file", ": ")
    return (
        f"{_text(detail, 'undoes', 'commit ') or 'a commit'} was undone"
        f"{restored and restored + ' put back'}{_count(detail, 'conflicts', 'conflict')}"
        f"{_text(detail, 'phase', ', ')}"
    )


def _policy(record: Record) -> str:
    detail = record.detail
    if record.outcome == "ok":
        does = f"is in force{_count(detail, 'rules', 'rule', ' with ')}"
    else:
        does = "was offered"
    layer = _text(detail, "layer", after=" ")
    return f"{layer}policy{_text(detail, 'file', ' ')} {does}{_text(detail, 'why', ': ')}"


def _gap(record: Record) -> str:
    detail = record.detail
    count = _count(detail, "dropped", "event", "") or "no event"
    verb = "is" if detail.get("dropped") in (0, 1, None) else "are"
    error = _text(detail, "error", " (", ")")
    span = _text(detail, "since", ", from ") + _text(detail, "until", " to ")
    return f"{count} {verb} missing here{_text(detail, 'why', ': ')}{error}{span}"


def _log_recovered(record: Record) -> str:
    unsigned = _count(record.detail, "unsigned", "entry", "; ").replace("entrys", "entries")
    tail = unsigned and f"{unsigned} before this one had no signature yet"
    return f"the log had not been closed in order{tail}"


_SENTENCES: Final[Mapping[Event, Callable[[Record], str]]] = {
    Event.WORKSPACE_UP: _up,
    Event.WORKSPACE_DOWN: _down,
    Event.DAEMON_START: _started,
    Event.DAEMON_STOP: lambda record: f"the daemon stopped{_text(record.detail, 'cause', ': ')}",
    Event.DAEMON_RECOVERED: _recovered,
    Event.GRANT: _granted,
    Event.GRANT_RENEWED: _renewed,
    Event.REVOKE: _ended("was revoked"),
    Event.EXPIRE: _ended("expired"),
    Event.TOKEN: _token,
    Event.REQUEST: _request,
    Event.DECISION: _decision,
    Event.OPEN: _opened,
    Event.REFUSE: _refused,
    Event.STAGE: _staged,
    Event.REVIEW: _reviewed,
    Event.COMMIT: _committed,
    Event.DISCARD: _discarded,
    Event.UNDO: _undone,
    Event.POLICY: _policy,
    Event.GAP: _gap,
    Event.LOG_RECOVERED: _log_recovered,
}
