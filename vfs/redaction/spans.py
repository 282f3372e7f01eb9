"""Findings: where in some bytes a secret lies, never what it is.

Offsets are half open and count bytes of the data that was scanned, also where the text is UTF-16
or UTF-32. A list of findings is sorted and its members do not overlap.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from vfs.redaction.views import Unit

Kind = Literal["credential", "private-key", "token", "personal"]

PIECE = 4096
"""Bytes. A longer finding is split where the file's offset is a multiple of this, so that every
window over a large file that sees any part of it makes the same pieces, and so the same
placeholders."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`data[start:end]` is (a piece of) a value that rule `rule` found, in code units of `unit`."""

    start: int
    end: int
    rule: str
    kind: Kind
    unit: Unit = ""


@dataclass(frozen=True, slots=True)
class Mark:
    """A finding of one rule in one view, before overlaps are resolved; offsets are of the view."""

    start: int
    end: int
    priority: int
    rule: str
    kind: Kind


def union(marks: list[Mark]) -> list[Mark]:
    """Joins overlapping marks; what they cover together is named by the most specific of them."""
    joined: list[Mark] = []
    for mark in sorted(marks, key=lambda m: (m.start, -m.end)):
        last = joined[-1] if joined else None
        if last is None or mark.start >= last.end:
            joined.append(mark)
            continue
        better = mark if mark.priority > last.priority else last
        joined[-1] = Mark(
            last.start, max(last.end, mark.end), better.priority, better.rule, better.kind
        )
    return joined


def without(marks: list[Mark], holes: list[tuple[int, int]]) -> list[Mark]:
    """The marks minus sorted, disjoint `holes`; a mark around one leaves two pieces."""
    if not holes:
        return marks
    left: list[Mark] = []
    first = 0
    for mark in marks:
        while first < len(holes) and holes[first][1] <= mark.start:
            first += 1
        at = mark.start
        for start, end in holes[first:]:
            if start >= mark.end:
                break
            if start > at:
                left.append(Mark(at, start, mark.priority, mark.rule, mark.kind))
            at = max(at, end)
        if at < mark.end:
            left.append(Mark(at, mark.end, mark.priority, mark.rule, mark.kind))
    return left


def pieces(finding: Finding, origin: int) -> list[Finding]:
    """Splits a long finding as `PIECE` says; `origin` is the file offset of the data's start."""
    if finding.end - finding.start <= PIECE:
        return [finding]
    cuts = [finding.start]
    cut = (origin + finding.start) // PIECE * PIECE + PIECE - origin
    while cut < finding.end:
        cuts.append(cut)
        cut += PIECE
    cuts.append(finding.end)
    return [
        Finding(start, end, finding.rule, finding.kind, finding.unit)
        for start, end in pairwise(cuts)
    ]
