"""Placeholders: what the agent sees in place of a secret.

A placeholder has the length of its value, is equal for equal values, and no character of it equals
the value's at its place. It is made of letters and digits only, so it is valid wherever the value
was: letters stay letters, digits digits, and a value of digits alone stays a number. From 12
characters on it is distinct for distinct values, and where the value has a letter it begins with
`MASKED` (`MASK` under 16 characters), a small letter next.

Its last characters are a keyed tag over the others where there is room for one (`TAG_BITS`), so
the masker knows its own placeholders again without keeping a list: masked text stays as it is. A
text that merely looks like one has no right tag and is scanned like any other.
"""

import hashlib
import hmac
import math
from collections.abc import Sequence
from dataclasses import dataclass

from vfs.redaction.rules import regex
from vfs.redaction.spans import Finding
from vfs.redaction.views import FILLER, narrow, widen

MARKED = 12
"""Characters from which on a placeholder bears a marker, is distinct and is restored by value."""

TAG_BITS = 22.0
"""A forged tag holds once in 4 million tries, each of which needs a line in a source file that the
user granted; the same number is kept for the part that tells values apart."""

_TRIES = 4096
_LOWER = b"abcdefghijklmnopqrstuvwxyz"
_ALPHABET = _LOWER + _LOWER.upper()
_LETTER_OF = bytes(_ALPHABET[i % 52] for i in range(256))
_LOWER_OF = bytes(_LOWER[i % 26] for i in range(256))
_DIGIT_OF = bytes(b"0123456789"[i % 10] for i in range(256))
_IS_DIGIT = bytes(0xFF if chr(i) in "0123456789" else 0 for i in range(256))
_IS_LETTER = bytes(
    0xFF if chr(i) in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" or i > 127 else 0
    for i in range(256)
)
_RUN = regex("(?i)mask[a-z0-9]{4,}")
_BITS = {0: math.log2(52), 0xFF: math.log2(10)}


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where the parts of a placeholder lie: marker, payload up to `tag`, then the tag."""

    marker: bytes
    tag: int


class Masker:
    """Makes and knows the placeholders of one workspace. `key`: at least 32 secret bytes."""

    def __init__(self, key: bytes) -> None:
        if len(key) < 32:
            raise ValueError("a masking key has at least 32 bytes")
        self._value_key = hmac.digest(key, b"grantfs placeholder value", "sha256")
        self._tag_key = hmac.digest(key, b"grantfs placeholder tag", "sha256")

    def placeholder(self, value: bytes) -> bytes:
        """The placeholder of a value of one byte a character (UTF-8: of one byte a byte)."""
        return self._make(value, value)

    def placeholder_of(self, data: bytes, finding: Finding) -> bytes:
        """The placeholder of a finding in `data`, in the finding's code units."""
        value = data[finding.start : finding.end]
        if not finding.unit:
            return self._make(value, value)
        text = narrow(value, finding.unit)
        return widen(self._make(text, value if FILLER in text else text), finding.unit)

    def mask(self, data: bytes, findings: Sequence[Finding]) -> bytes:
        """`data` with every finding replaced; the length stays."""
        if not findings:
            return data
        masked = bytearray(data)
        for finding in findings:
            placeholder = self.placeholder_of(data, finding)
            masked[finding.start : finding.end] = placeholder[: finding.end - finding.start]
        return bytes(masked)

    def is_genuine(self, text: bytes) -> bool:
        """Whether `text` (one byte a character) is a placeholder of this key with a right tag."""
        layout = _layout(text, _kinds(text))
        if not layout.marker or layout.tag == len(text):
            return False
        if text[: len(layout.marker)].upper() != layout.marker:
            return False
        tag = self._tag(text[len(layout.marker) : layout.tag], _kinds(text)[layout.tag :])
        return hmac.compare_digest(tag, text[layout.tag :])

    def live_spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where genuine placeholders stand in `text`, sorted and disjoint."""
        return [(start, end) for start, end in _runs(text) if self.is_genuine(text[start:end])]

    def _make(self, shape: bytes, identity: bytes) -> bytes:
        """A placeholder of the form of `shape`, keyed by `identity`."""
        if not shape:
            return b""
        kinds = _kinds(shape)
        layout = _layout(shape, kinds)
        head = len(layout.marker)
        for attempt in range(_TRIES):
            seed = hmac.digest(self._value_key, attempt.to_bytes(2, "big") + identity, "sha256")
            payload = _fill(seed, shape[head : layout.tag], kinds[head : layout.tag], not head)
            tag = self._tag(payload, kinds[layout.tag :])
            if not _equal_places(tag, shape[layout.tag :]):
                return _unlike(layout.marker, shape[:head]) + payload + tag
        raise AssertionError("a tag that differs from the value everywhere was not found")

    def _tag(self, payload: bytes, kinds: bytes) -> bytes:
        if not kinds:
            return b""
        # The form is hashed too: a shorter tag must not be the beginning of a longer one.
        seed = hmac.digest(self._tag_key, payload + b"\n" + kinds, "sha256")
        return _characters(seed, kinds)


def find_candidates(text: bytes) -> list[tuple[int, int]]:
    """Where `text` (one byte a character) has the form of a placeholder, whole or cut behind.

    The form is narrow, so that ordinary code has next to none: the marker in capitals (one may be
    flipped), a small letter next, then letters and digits with a capital or digit among them.
    """
    return [(start, end) for start, end in _runs(text) if _has_form(text[start:end])]


def _runs(text: bytes) -> list[tuple[int, int]]:
    found = []
    at = 0
    while (match := _RUN.search(text, at)) is not None:
        found.append(match.span())
        at = match.end()
    return found


def _has_form(run: bytes) -> bool:
    marker = 6 if run[:6].upper() == b"MASKED" else 4
    tail = run[marker:]
    capitals = sum(65 <= byte <= 90 for byte in run[:marker])
    if marker == 4 and not 10 <= len(run) < 16:
        return False
    if capitals < marker - 1 or len(tail) < 4:
        return False
    letters = tail.lstrip(b"0123456789")
    return letters[:1].islower() and not tail.islower()


def _kinds(shape: bytes) -> bytes:
    """For each character 0xFF if the placeholder has a digit there, else 0 for a letter."""
    if any(shape.translate(_IS_LETTER)):
        return shape.translate(_IS_DIGIT)
    if any(shape.translate(_IS_DIGIT)):
        return b"\xff" * len(shape)
    return bytes(len(shape))


def _layout(shape: bytes, kinds: bytes) -> _Layout:
    size = len(shape)
    if size < MARKED or 0 not in kinds:
        return _Layout(b"", size)
    marker = b"MASK" if size < 16 else b"MASKED"
    room = sum(_BITS[kind] for kind in kinds[len(marker) : len(marker) + 64])
    tag, bits = size, 0.0
    while bits < TAG_BITS and tag > len(marker):
        tag -= 1
        bits += _BITS[kinds[tag]]
    if room - bits < TAG_BITS:
        return _Layout(marker, size)
    return _Layout(marker, tag)


def _fill(seed: bytes, shape: bytes, kinds: bytes, leading: bool) -> bytes:
    """Keyed characters of the given kinds, each unlike the one of `shape` at its place.

    The first letter is a small one, which gives the form. `leading`: this is the placeholder's
    beginning, where a number must not get a zero (JSON refuses it).
    """
    filled = bytearray(_characters(seed, kinds))
    first = kinds.find(0)
    if first >= 0:
        filled[first] = _LOWER_OF[seed[0]]
    for place in _equal_places(filled, shape):
        filled[place] = _next(filled[place], place == first)
    if leading and kinds and 0 not in kinds and filled[0] == 0x30:
        filled[0] = 0x32 if shape[0] == 0x31 else 0x31
    return bytes(filled)


def _characters(seed: bytes, kinds: bytes) -> bytes:
    stream = hashlib.shake_256(seed).digest(len(kinds))
    size = len(kinds)
    if 0xFF not in kinds:
        return stream.translate(_LETTER_OF)
    digit = int.from_bytes(kinds, "big")
    letters = int.from_bytes(stream.translate(_LETTER_OF), "big")
    digits = int.from_bytes(stream.translate(_DIGIT_OF), "big")
    return (letters ^ ((letters ^ digits) & digit)).to_bytes(size, "big")


def _equal_places(one: bytes | bytearray, other: bytes) -> list[int]:
    if not one:
        return []
    differs = (int.from_bytes(one, "big") ^ int.from_bytes(other, "big")).to_bytes(len(one), "big")
    places = []
    at = differs.find(0)
    while at >= 0:
        places.append(at)
        at = differs.find(0, at + 1)
    return places


def _next(character: int, small: bool) -> int:
    if 0x30 <= character <= 0x39:
        return 0x30 + (character - 0x30 + 1) % 10
    alphabet = _LOWER if small else _ALPHABET
    return alphabet[(alphabet.index(character) + 1) % len(alphabet)]


def _unlike(marker: bytes, value: bytes) -> bytes:
    """The marker with the case flipped where it would show the value's own character."""
    return bytes(m ^ 0x20 if m == v else m for m, v in zip(marker, value, strict=True))
