"""Secrets that go on behind their pattern: key bodies and long tokens of any length.

A pattern is bounded, a PEM body is not. From where a pattern ended, `follow` walks on for as long
as the text still looks like the body, in C-speed steps and never in Python per byte, and says how
far it came. A window over a large file that begins inside such a body starts with the same walk.
"""

from dataclasses import dataclass

WORD = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
BASE64 = WORD + b"+/=.~"
_PLAIN_64 = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="

KEY_TEXT = _PLAIN_64 + b" \t\r\n\\\"'`,#*>|;%&"
"""What stands between a key's armour lines: base64, line breaks real or escaped, and what wraps
lines in source code (quotes, commas, comment and quotation marks). Not `-`, which ends it."""

CARRY_TEXT = bytes(sorted(set(KEY_TEXT + BASE64))) + b"\0"
"""Text without any byte outside this may belong to a body that began before it (NUL: UTF-16)."""

KEY_TOKEN = 20
"""Bytes. Without an end line, base64 pieces count as key body down to this length: the shortest
full line that key writers use is 60, what is shorter may be a word of the text that follows."""

MAX_TOKENS = 4096
"""Pieces of one body that are hidden one by one; a body of more and tiny crumbs is hostile, and is
hidden as a whole, line breaks included."""

MAX_LINES = 1000
"""Of one YAML document that is walked for its values."""

MIN_VALUE = 4
"""Bytes of a value worth hiding."""

_HEADERS = b"Proc-Type:", b"DEK-Info:", b"Version:", b"Comment:", b"Hash:", b"Charset:"
_ESCAPES = (b"\\r", b"\\n", b"\\t", b"\\/", b"\\u000a", b"\\u000A", b"\\u000d", b"\\u000D")
_SEPARATORS = bytes(c if c in _PLAIN_64 else 0x20 for c in range(256))
_STEP = 16384


@dataclass(frozen=True, slots=True)
class Body:
    """`spans` are to be hidden; `end` is where the walk stopped. No spans: not a body after all."""

    spans: tuple[tuple[int, int], ...]
    end: int


def follow(text: bytes, start: int, mode: str, carried: bool = False) -> Body:
    """Walks a body of `mode` (`word`, `base64`, `pem`, `wrapped`, `values`) from `start`.

    `carried`: the body began before this text, so even a short rest of it belongs to it.
    """
    if mode in ("word", "base64"):
        end = run(text, start, WORD if mode == "word" else BASE64)
        return Body(((start, end),) if end > start else (), end)
    if mode == "wrapped":
        return _wrapped(text, start)
    if mode == "values":
        return _values(text, start)
    return _pem(text, start, carried)


def run(text: bytes, start: int, alphabet: bytes) -> int:
    """Where the run of bytes of `alphabet` that begins at `start` ends."""
    while start < len(text):
        chunk = text[start : start + _STEP]
        rest = len(chunk.lstrip(alphabet))
        start += len(chunk) - rest
        if rest:
            break
    return start


def _pem(text: bytes, start: int, carried: bool) -> Body:
    body = _skip_headers(text, start)
    end = run(text, body, KEY_TEXT)
    tokens = _tokens(text, body, end)
    longest = max((stop - begin for begin, stop in tokens), default=0)
    closed = text[end : end + 8] == b"-----END" or end == len(text)
    if not carried and longest < (KEY_TOKEN if closed else 2 * KEY_TOKEN):
        return Body((), end)
    if not closed:
        tokens = _cut_tail(tokens)
    if len(tokens) > MAX_TOKENS and longest < KEY_TOKEN:
        return Body(((tokens[0][0], tokens[-1][1]),), end)
    return Body(tuple(tokens), end)


def _cut_tail(tokens: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Drops the words of ordinary text that follow a body which has no end line."""
    keep = 0
    for index, (start, end) in enumerate(tokens):
        if end - start >= KEY_TOKEN:
            keep = index + 2
    return tokens[:keep]


def _wrapped(text: bytes, start: int) -> Body:
    """Base64 of a whole PEM file: one run, or full lines of it and a last shorter one."""
    end = run(text, start, KEY_TEXT)
    kept: list[tuple[int, int]] = []
    for begin, stop in _tokens(text, start, end):
        short = stop - begin < KEY_TOKEN
        if kept and short and kept[-1][1] - kept[-1][0] < 3 * KEY_TOKEN:
            return Body(tuple(kept), kept[-1][1])
        kept.append((begin, stop))
        if text[stop - 1 : stop] == b"=" or (len(kept) > 1 and short):
            return Body(tuple(kept), stop)
    return Body(tuple(kept), end)


def _values(text: bytes, start: int) -> Body:
    """The values in the `data:` and `stringData:` of a YAML document."""
    spans: list[tuple[int, int]] = []
    at = start
    block = -1  # how far the block's own line is indented; -1 outside of one
    for _ in range(MAX_LINES):
        stop = text.find(b"\n", at)
        line = text[at : stop if stop >= 0 else len(text)]
        content = line.strip()
        if content.startswith(b"---"):
            break
        indent = len(line) - len(line.lstrip())
        if content and not content.startswith(b"#"):
            if indent <= block:
                block = -1
            if block >= 0:
                spans += _value(line, at)
            elif content.lower() in (b"data:", b"stringdata:"):
                block = indent
        if stop < 0:
            at = len(text)
            break
        at = stop + 1
    return Body(tuple(spans), at)


def _value(line: bytes, at: int) -> list[tuple[int, int]]:
    """Where the value of `key: value`, or a line of a longer value, stands."""
    key, colon, rest = line.partition(b": ")
    begin = len(key) + len(colon) if colon else 0
    value = (rest if colon else line).strip(b" \t\r\"'")
    template = value.startswith((b"{", b"$", b"<", b"|", b">"))
    if len(value) < MIN_VALUE or template or (not colon and b":" in value):
        return []
    begin = line.index(value, begin)
    return [(at + begin, at + begin + len(value))]


def _skip_headers(text: bytes, start: int) -> int:
    """Behind the header lines (`Proc-Type: 4,ENCRYPTED`) that may stand above a body."""
    at = start
    for _ in range(16):
        gap = run(text, at, b" \t\r\n\\nr\"'")
        line = text[gap : gap + 256]
        if not line.startswith(_HEADERS):
            return at
        stops = [stop for mark in (b"\n", b"\\n", b"\\r") if (stop := line.find(mark)) >= 0]
        at = gap + (min(stops) if stops else len(line))
    return at


def _tokens(text: bytes, start: int, end: int) -> list[tuple[int, int]]:
    """The base64 pieces of a stretch, without the letters of escaped line breaks.

    Signs alone (`+` between strings, `//` before a comment) are no piece.
    """
    stretch = text[start:end]
    if b"\\" in stretch:
        for escape in _ESCAPES:
            stretch = stretch.replace(escape, b" " * len(escape))
    found = []
    at = start
    for piece in stretch.translate(_SEPARATORS).split(b" "):
        if piece.strip(b"+/="):
            found.append((at, at + len(piece)))
        at += len(piece) + 1
    return found
