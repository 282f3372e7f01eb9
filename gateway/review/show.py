"""What people see of a difference on a terminal: a summary, and content that cannot play tricks.

Pure functions; any task or thread may call them. Never used for output that programs read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.review.patch import quote_name

_ESCAPED = re.compile(
    "["
    "\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 but tab and newline, DEL, C1
    "\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2"
    "\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # fillers and selectors that show nothing
    "\u200b-\u200f\u2028-\u202e\u2060-\u206f"  # zero width, line separators, bidirectional
    "\u3164\ufe00-\ufe0e\ufeff\uffa0\ufff0-\ufffb"
    "\U000110bd\U000110cd\U00013430-\U0001345f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a"
    "\U000e0000-\U000e0fff"  # tags and selectors that can carry hidden text
    "\ud800-\udfff"  # bytes that are no UTF-8, as surrogateescape gives them
    "]"
)
_SHORT_ESCAPES = {"\r": "\\r", "\b": "\\b", "\0": "\\0"}

_LEAST_WIDTH = 22
_LEAST_GRAPH = 6
_FRAME = 6
"""Columns of a summary line besides name, number and graph: `` name | 12 ++--`` and a spare one."""


def escape_terminal(data: bytes) -> str:
    """``data`` as text that is safe to print, what cannot be seen or is no UTF-8 as an escape.

    Newline and tab stay. Escaped are all control and format characters (so that nothing drives the
    terminal, hides or turns text around), fillers, selectors and tags.
    """
    return _ESCAPED.sub(_escape, data.decode("utf-8", "surrogateescape"))


def _escape(match: re.Match[str]) -> str:
    character = match.group()
    code = ord(character)
    if character in _SHORT_ESCAPES:
        return _SHORT_ESCAPES[character]
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if code < 0x80:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def diffstat(files: Sequence[tuple[bytes, int, int, bool]], width: int = 80) -> str:
    """A summary as ``git diff --stat`` prints it on ``width`` columns, a line for every file.

    Each file is its name, what was added, what was removed, and whether it is binary: lines, or
    of a binary file the size after and before, in bytes.
    """
    if not files:
        return ""
    names = [quote_name(path).decode() for path, *_ in files]
    most = max((added + removed for _, added, removed, binary in files if not binary), default=0)
    binaries = [f"{removed} -> {added} bytes" for _, added, removed, binary in files if binary]
    number_width = max(len(str(most)), 3 if binaries else 0)
    width = max(width, _LEAST_WIDTH + number_width)
    # The sizes of a binary file start in the graph's first column.
    graph_width = max([most, *map(len, binaries)])
    name_width = max(map(len, names))
    room = width - number_width - _FRAME
    if name_width + graph_width > room:
        share = width * 3 // 8 - number_width - _FRAME
        if graph_width > share:
            graph_width = max(share, _LEAST_GRAPH)
        if name_width > room - graph_width:
            name_width = room - graph_width
        else:
            graph_width = room - name_width
    lines = []
    for name, (_, added, removed, binary) in zip(names, files, strict=True):
        if binary:
            number = "Bin"
            graph = f" {removed} -> {added} bytes" if added or removed else ""
        else:
            number = str(added + removed)
            plus, minus = _graph(added, removed, graph_width, most)
            graph = " " + "+" * plus + "-" * minus if added or removed else ""
        lines.append(f" {_short(name, name_width)} | {number:>{number_width}}{graph}\n")
    texts = [(added, removed) for _, added, removed, binary in files if not binary]
    return "".join(lines) + _totals(
        len(files), sum(added for added, _ in texts), sum(removed for _, removed in texts)
    )


def _short(name: str, width: int) -> str:
    """``name`` in ``width`` columns, cut at the front, after a slash if there is one."""
    if len(name) > width:
        name = name[len(name) - (width - 3) :]
        _, slash, rest = name.partition("/")
        name = "..." + (slash + rest if slash else name)
    return name.ljust(width)


def _graph(added: int, removed: int, width: int, most: int) -> tuple[int, int]:
    """How many plus and minus signs to draw, scaled if the largest change does not fit."""
    if width > most:
        return added, removed
    total = _scaled(added + removed, width, most)
    if total < 2 and added and removed:
        total = 2
    if added < removed:
        plus = _scaled(added, width, most)
        return plus, total - plus
    minus = _scaled(removed, width, most)
    return total - minus, minus


def _scaled(count: int, width: int, most: int) -> int:
    # One sign at least for anything that is not nothing.
    return 1 + count * (width - 1) // most if count else 0


def _totals(files: int, added: int, removed: int) -> str:
    parts = [f" {files} file{'' if files == 1 else 's'} changed"]
    if added or not removed:
        parts.append(f" {added} insertion{'' if added == 1 else 's'}(+)")
    if removed or not added:
        parts.append(f" {removed} deletion{'' if removed == 1 else 's'}(-)")
    return ",".join(parts) + "\n"
