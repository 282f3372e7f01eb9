"""A finding that is a JSON object or array as a whole: only its texts are hidden.

A placeholder in place of the braces would leave nothing that a program could parse.
"""

import json

from vfs.redaction.rules import regex

_TEXT = regex(r'"((?:[^"\\]|\\.)*)"(\s*:)?')


def texts(value: bytes) -> list[tuple[int, int]]:
    """Where the texts of such a value stand, its keys left out; empty if it is no such value."""
    if value[:1] + value[-1:] not in (b"{}", b"[]"):
        return []
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return []
    found = []
    for match in _TEXT.finditer(value):
        start, end = match.span(1)
        if match.group(2) is None and start < end:
            found.append((start, end))
    return found
