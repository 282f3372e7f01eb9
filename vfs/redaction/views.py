"""Views: bytes as the texts that they may hold, one byte a character.

Any bytes are read as they stand, and, where they hold NULs, also as UTF-16 and UTF-32 in either
byte order. A view has one byte for each code unit: the character where the unit is ASCII or
Latin-1, `FILLER` elsewhere, so an offset in a view maps to the data by a multiplication and
nothing has to decode (a broken surrogate hides nothing). No guessing of a file's encoding takes
place that a hostile file could mislead.
"""

from dataclasses import dataclass
from typing import Literal

Unit = Literal["", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"]
"""How a character is stored: `""` is one byte, the others are code units of 2 or 4 bytes."""

STRIDE: dict[Unit, int] = {"": 1, "utf-16-le": 2, "utf-16-be": 2, "utf-32-le": 4, "utf-32-be": 4}
"""Bytes of a code unit."""

FILLER = 0xFF
"""Stands for a code unit that is not Latin-1; no rule's alphabet holds it."""

_BOM_8 = b"\xef\xbb\xbf"
_BOM: dict[Unit, bytes] = {
    "utf-16-le": b"\xff\xfe",
    "utf-16-be": b"\xfe\xff",
    "utf-32-le": b"\xff\xfe\0\0",
    "utf-32-be": b"\0\0\xfe\xff",
}
_NONZERO = bytes([0]) + b"\xff" * 255


@dataclass(frozen=True, slots=True)
class View:
    """Character `k` of `text` is the bytes from `k * stride` to `(k + 1) * stride` of the data."""

    unit: Unit
    text: bytes

    @property
    def stride(self) -> int:
        return STRIDE[self.unit]


def views(data: bytes) -> list[View]:
    """Every reading of `data` that can hold text; the data itself comes first.

    A byte order mark reads as a line break, so that rules see where the first line begins.
    """
    found = [View("", b"\n\n\n" + data[3:] if data.startswith(_BOM_8) else data)]
    if b"\0" not in data or not data.strip(b"\0"):
        return found
    found += [View("utf-16-le", narrow(data, "utf-16-le"))]
    found += [View("utf-16-be", narrow(data, "utf-16-be"))]
    if b"\0\0\0" in data:
        found += [View("utf-32-le", narrow(data, "utf-32-le"))]
        found += [View("utf-32-be", narrow(data, "utf-32-be"))]
    return found


def narrow(data: bytes, unit: Unit) -> bytes:
    """The view of `data` in `unit`; bytes behind the last whole unit count as if NULs followed."""
    stride = STRIDE[unit]
    if stride == 1:
        return data
    data += bytes(-len(data) % stride)
    lanes = [data[at::stride] for at in range(stride)]
    if stride == 2:
        text = _narrow_16(lanes[0], lanes[1], unit == "utf-16-le")
    else:
        little = unit == "utf-32-le"
        filler = 0
        for lane in lanes[1:] if little else lanes[:3]:
            filler |= _number(lane.translate(_NONZERO))
        char = lanes[0] if little else lanes[3]
        text = (_number(char) | filler).to_bytes(len(char), "big")
    return b"\n" + text[1:] if data.startswith(_BOM[unit]) else text


def _narrow_16(even: bytes, odd: bytes, little: bool) -> bytes:
    """A character counts if a NUL stands on either side of it.

    Accepting both sides makes the two views cover little and big endian text at odd offsets too
    (a UTF-16 string inside a binary file).
    """
    char, other = (even, odd) if little else (odd, even)
    nonzero = _number(other.translate(_NONZERO))
    if little:
        filler = nonzero & (nonzero >> 8)
    else:
        filler = nonzero & (nonzero << 8) & ((1 << 8 * len(char)) - 1)
    return (_number(char) | filler).to_bytes(len(char), "big")


def widen(text: bytes, unit: Unit) -> bytes:
    """ASCII `text` in code units of `unit`: the inverse of `narrow` for plain characters."""
    stride = STRIDE[unit]
    if stride == 1:
        return text
    wide = bytearray(len(text) * stride)
    wide[0 if unit.endswith("-le") else stride - 1 :: stride] = text
    return bytes(wide)


def _number(lane: bytes) -> int:
    """Byte strings as integers: the one way to and/or megabytes at C speed without a dependency."""
    return int.from_bytes(lane, "big")
