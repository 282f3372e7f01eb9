"""What can go wrong with the log, as far as a caller can act on it."""

from __future__ import annotations

from gateway.errors import GrantfsError


class AuditError(GrantfsError):
    """The log can't be opened, written or read.

    `hint` says what the user can do about it; it is the end of `message` too.
    """

    code = "audit"

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}, {hint}" if hint else message)
        self.hint = hint


class EventError(AuditError, ValueError):
    """A caller offered something that the event's declaration does not allow: a fault in the code.

    Raised before anything is queued, so an undeclared field never reaches the disk.
    """

    code = "audit-event"
