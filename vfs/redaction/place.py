"""Place: what stands before a value, in a form that reformatting does not change.

Two values have the same place when they have the same key before them, white space and quoting
aside: `TOKEN=x`, `export TOKEN="x"` and `"TOKEN": "x"` are one place; `--token x` is another.
"""

REACH = 512
"""Bytes before the value that are looked at."""

_BLANK = b" \t\r\n\"'`\\([{,"
_ASSIGN = b"=:>"
_ESCAPED = (b"\\n", b"\\r", b"\\t")
_NAME = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.$%/-" + bytes(
    range(128, 256)
)


def place_of(text: bytes, start: int) -> bytes:
    """The key before `text[start]` (one byte a character): its name, and `=` if it is assigned."""
    before = text[max(0, start - REACH) : start]
    assigned = b""
    while before:
        if before.endswith(_ESCAPED):
            before = before[:-2]
            continue
        rest = before.rstrip(_BLANK)
        if rest and rest[-1] in _ASSIGN:
            assigned = b"="
            rest = rest.rstrip(_ASSIGN)
        if len(rest) == len(before):
            break
        before = rest
    name = before[len(before.rstrip(_NAME)) :]
    return name + assigned
