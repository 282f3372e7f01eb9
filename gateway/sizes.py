"""Sizes as people write them: `4096`, `500K`, `64M`, `2G`, `1T`, in powers of 1024 as git has them.
Standard library only."""

import re

from gateway.errors import UsageError

_UNITS = {"": 0, "k": 10, "m": 20, "g": 30, "t": 40}
_FORM = re.compile(r"([1-9][0-9]{0,14})([kmgt]?)i?b?", re.IGNORECASE)


def parse(text: str) -> int:
    """Bytes of a size. Raises UsageError."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise UsageError(f"bad size {text!r}: use 4096, 500K, 64M, 2G or 1T")
    return int(match[1]) << _UNITS[match[2].lower()]


def show(size: int) -> str:
    """A size for people, in the largest unit that leaves a number of at least 1."""
    for unit, shift in (("T", 40), ("G", 30), ("M", 20), ("K", 10)):
        if size >= 1 << shift:
            number = size / (1 << shift)
            return f"{number:.0f}{unit}" if number >= 10 else f"{number:.1f}{unit}"
    return f"{size}B"
