"""Durations as people write them: `30s`, `15m`, `8h`, `7d`, `until-revoked`. Standard library
only."""

import re

from gateway.errors import UsageError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_FORM = re.compile(r"([1-9][0-9]{0,8})([smhd])")

UNTIL_REVOKED = "until-revoked"
LONGEST = 36500 * 86400
"""A hundred years in seconds; more would overflow dates."""


def parse(text: str) -> int | None:
    """Seconds of a duration, None for `until-revoked`. Raises UsageError."""
    if text == UNTIL_REVOKED:
        return None
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"bad duration {text!r}: use 30s, 15m, 8h, 7d or until-revoked")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST:
        raise UsageError(f"bad duration {text!r}: longer than a hundred years; use until-revoked")
    return seconds


def show(seconds: int | None) -> str:
    """The shortest exact form of a number of seconds."""
    if seconds is None:
        return UNTIL_REVOKED
    for unit in ("d", "h", "m"):
        if seconds and seconds % _UNITS[unit] == 0:
            return f"{seconds // _UNITS[unit]}{unit}"
    return f"{seconds}s"
