"""Three-way merge over lines.

Promises: what one side alone changed is in the result, what both changed alike is in it once, and
everything else stands between conflict markers with both sides in full, as ``git merge-file``
draws them. Changes that touch conflict. Pure functions; any task or thread may call them. Meant
for text: a caller takes binary files whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gateway.review.lines import changed_regions, split_lines
from gateway.review.meter import Meter
from gateway.review.slide import Region

_MARKER_SIZE = 7
_FEW_LINES = 3
"""Conflicts with at most so many equal lines between them are one, as in git."""

_WORD = re.compile(rb"[0-9A-Za-z]")


@dataclass(frozen=True, slots=True)
class Merge:
    """The merged bytes, and how many conflicts stand in them (0: it merged cleanly)."""

    data: bytes
    conflicts: int


class _Kind(Enum):
    SAME = "equal on both sides"
    OURS = "taken from ours"
    THEIRS = "taken from theirs"
    CONFLICT = "both, between markers"


@dataclass(frozen=True, slots=True)
class _Piece:
    """``ours[o0:o1]`` stands where ``theirs[t0:t1]`` does."""

    kind: _Kind
    o0: int
    o1: int
    t0: int
    t1: int


def merge3(
    base: bytes,
    ours: bytes,
    theirs: bytes,
    *,
    labels: tuple[bytes, bytes] = (b"ours", b"theirs"),
    meter: Meter | None = None,
) -> Merge:
    """Merge what ``ours`` and ``theirs`` each changed in ``base``.

    ``labels`` are written after the markers, one line each. ``meter`` counts and bounds the work.
    """
    if ours == theirs or theirs == base:
        return Merge(ours, 0)
    if ours == base:
        return Merge(theirs, 0)
    root, left, right = split_lines(base), split_lines(ours), split_lines(theirs)
    if meter is None:
        meter = Meter(2 * (len(root) + len(left) + len(right)))
    pieces = _joined(_pieces(root, left, right, meter), left)
    out: list[bytes] = []
    for piece in pieces:
        mine, other = left[piece.o0 : piece.o1], right[piece.t0 : piece.t1]
        if piece.kind is _Kind.CONFLICT:
            above = (_above(left, piece.o0), _above(right, piece.t0), root[:1])
            out += _marked(mine, other, labels, _line_end(*above))
        else:
            out += other if piece.kind is _Kind.THEIRS else mine
    return Merge(b"".join(out), sum(piece.kind is _Kind.CONFLICT for piece in pieces))


def _pieces(
    base: Sequence[bytes], ours: Sequence[bytes], theirs: Sequence[bytes], meter: Meter
) -> Iterator[_Piece]:
    """Both sides from start to end, cut where either changed the base; a piece may be empty."""
    o = t = 0
    our_shift = their_shift = 0
    for start, end, left, right in _clusters(
        changed_regions(base, ours, readable=False, meter=meter),
        changed_regions(base, theirs, readable=False, meter=meter),
    ):
        o0, t0 = start + our_shift, start + their_shift
        yield _Piece(_Kind.SAME, o, o0, t, t0)
        our_shift += _growth(left)
        their_shift += _growth(right)
        o, t = end + our_shift, end + their_shift
        if not right:
            yield _Piece(_Kind.OURS, o0, o, t0, t)
        elif not left:
            yield _Piece(_Kind.THEIRS, o0, o, t0, t)
        else:
            yield from _narrowed(ours, theirs, (o0, o, t0, t), meter)
    yield _Piece(_Kind.SAME, o, len(ours), t, len(theirs))


def _clusters(
    left: Sequence[Region], right: Sequence[Region]
) -> Iterator[tuple[int, int, list[Region], list[Region]]]:
    """The changes of both sides, those that overlap or touch in the base together.

    Each with the lines of the base that it spans.
    """
    edits = sorted([(region, 0) for region in left] + [(region, 1) for region in right])
    n = 0
    while n < len(edits):
        start, end = edits[n][0][:2]
        sides: tuple[list[Region], list[Region]] = ([], [])
        while n < len(edits) and edits[n][0][0] <= end:
            region, side = edits[n]
            sides[side].append(region)
            end = max(end, region[1])
            n += 1
        yield start, end, *sides


def _growth(regions: Sequence[Region]) -> int:
    return sum((b1 - b0) - (a1 - a0) for a0, a1, b0, b1 in regions)


def _narrowed(
    ours: Sequence[bytes], theirs: Sequence[bytes], box: Region, meter: Meter
) -> Iterator[_Piece]:
    """What both sides changed, without the lines they agree on: any number of conflicts."""
    o0, o1, t0, t1 = box
    if (o0 == o1) != (t0 == t1):
        yield _Piece(_Kind.CONFLICT, *box)
        return
    o, t = o0, t0
    for a0, a1, b0, b1 in changed_regions(ours[o0:o1], theirs[t0:t1], readable=False, meter=meter):
        yield _Piece(_Kind.SAME, o, o0 + a0, t, t0 + b0)
        o, t = o0 + a1, t0 + b1
        yield _Piece(_Kind.CONFLICT, o0 + a0, o, t0 + b0, t)
    yield _Piece(_Kind.SAME, o, o1, t, t1)


def _joined(pieces: Iterable[_Piece], ours: Sequence[bytes]) -> list[_Piece]:
    """The pieces with conflicts that only a few lines, or none with a word, part made one."""
    out: list[_Piece] = []
    for piece in pieces:
        if piece.o0 == piece.o1 and piece.t0 == piece.t1:
            continue
        if piece.kind is _Kind.SAME and out and out[-1].kind is _Kind.SAME:
            piece = replace(out.pop(), o1=piece.o1, t1=piece.t1)
        elif (
            piece.kind is _Kind.CONFLICT
            and [before.kind for before in out[-2:]] == [_Kind.CONFLICT, _Kind.SAME]
            and _slight(ours[out[-1].o0 : out[-1].o1])
        ):
            out.pop()
            piece = replace(out.pop(), o1=piece.o1, t1=piece.t1)
        out.append(piece)
    return out


def _slight(lines: Sequence[bytes]) -> bool:
    return len(lines) <= _FEW_LINES or not any(_WORD.search(line) for line in lines)


def _marked(
    mine: Sequence[bytes], other: Sequence[bytes], labels: tuple[bytes, bytes], end: bytes
) -> Iterator[bytes]:
    """A conflict's lines; a last line without a newline gets one before the marker."""
    for mark, label, lines in (
        (b"<", labels[0], mine),
        (b"=", b"", other),
        (b">", labels[1], ()),
    ):
        yield mark * _MARKER_SIZE + (b" " + label if label else b"") + end
        yield from lines
        if lines and not lines[-1].endswith(b"\n"):
            yield end


def _above(lines: Sequence[bytes], at: int) -> Sequence[bytes]:
    return lines[max(at - 1, 0) : max(at, 1)]


def _line_end(*neighbours: Sequence[bytes]) -> bytes:
    """The end for markers: CRLF if all neighbouring lines have it, as in git."""
    first = [lines[0] for lines in neighbours if lines]
    return b"\r\n" if all(line.endswith(b"\r\n") for line in first) else b"\n"
