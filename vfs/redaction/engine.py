"""The engine: which bytes of some data are secrets.

hyperscan proposes over all rules at once, google-re2 confirms inside bounded windows, validators
follow. Work is linear in the data whatever it holds: windows that meet are joined before they are
searched, and attempts are counted. Where anything fails or runs out of bounds `ScanError` is
raised; fewer findings are never returned in silence. Thread-safe; holds no data between calls.
"""

import hashlib
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Any

import re2

from vfs.redaction import bodies, objects, propose
from vfs.redaction.errors import ScanError
from vfs.redaction.known import KnownValues
from vfs.redaction.propose_slow import SlowProposer
from vfs.redaction.rules import Rule, regex
from vfs.redaction.spans import Finding, Kind, Mark, pieces, union, without
from vfs.redaction.validators import Validator, named
from vfs.redaction.views import View, views

REVISION = 2
"""Raised by whoever changes what the engine finds with the same rules."""

MAX_SCAN = 64 << 20
"""Bytes of one `find`; what is larger is read through `vfs.redaction.stream`."""

MAX_ATTEMPTS = 2_000_000
"""Confirmations in one view, at a few µs each."""

PROFILES: dict[str, frozenset[str]] = {
    "secrets": frozenset({"secrets"}),
    "secrets+pii": frozenset({"secrets", "pii"}),
    "strict": frozenset({"secrets", "strict"}),
}
"""Profile name to the rule profiles that it takes; `none` never reaches the engine."""

_PLACEHOLDER_HINT = b"(?i)mask[a-z0-9]{8}"

SPECIFIC = 10
"""Rules of this priority or more are a provider's own; what they find becomes a known value."""

KNOWN_RULE, KNOWN_PRIORITY = "known-value", 5

Live = Callable[[bytes], Sequence[tuple[int, int]]]
"""Finds the genuine placeholders in a text: sorted, disjoint offsets."""


@dataclass(frozen=True, slots=True)
class Cover:
    """A value of unbounded length, found from `start`, that stops at `end`.

    `mode` says how it would go on; what is hidden of it lies from `first` to `last`.
    """

    start: int
    end: int
    mode: str
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What one scan found; `covers` are for windows that begin inside a body."""

    findings: list[Finding]
    covers: list[Cover]


class _Compiled:
    """A rule, made ready when it first has something to confirm: most never have."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.behind = rule.window if rule.anchor is not None else 0

    @cached_property
    def regex(self) -> Any:
        return regex(self.rule.pattern)

    @cached_property
    def group(self) -> int:
        return int(self.regex.groupindex.get(b"secret", 0))

    @cached_property
    def validators(self) -> tuple[Validator, ...]:
        return tuple(named(name) for name in self.rule.validators)


class Engine:
    """Finds secrets by `rules`. `cache_dir` keeps compiled databases between runs; a value of
    `allowed` is no finding."""

    def __init__(
        self,
        rules: Iterable[Rule],
        cache_dir: Path | None = None,
        allowed: frozenset[bytes] = frozenset(),
    ) -> None:
        self._rules = tuple(_Compiled(rule) for rule in rules)
        self._cache_dir = cache_dir
        self._allowed = allowed
        self._lock = threading.Lock()
        self._proposers: dict[str, tuple[propose.Proposer | SlowProposer, list[_Compiled]]] = {}
        self._carried: dict[str, Rule] = {
            c.rule.extend: c.rule for c in self._rules if c.rule.extend
        }
        self.version = _version([c.rule for c in self._rules], allowed)

    def knows(self, value: bytes, rule: str) -> bool:
        """True if a value that *rule* once found would still count as a finding of it."""
        return value not in self._allowed and any(c.rule.id == rule for c in self._rules)

    def find(
        self,
        data: bytes,
        profile: str = "secrets",
        *,
        live: Live | None = None,
        known: KnownValues | None = None,
        learn: bool = False,
    ) -> list[Finding]:
        """The findings in `data`, sorted and disjoint; raises ScanError, KeyError for a profile.

        `live` recognises genuine placeholders, which are no finding.
        """
        return self.scan(data, profile, live=live, known=known, learn=learn).findings

    def scan(
        self,
        data: bytes,
        profile: str = "secrets",
        *,
        live: Live | None = None,
        carry: str = "",
        origin: int = 0,
        known: KnownValues | None = None,
        learn: bool = False,
    ) -> Scan:
        """As `find`, for a window of a larger file.

        `carry` is the mode of the body that the window begins in, or empty; `origin` is the file
        offset of `data[0]`. The values of `known` are findings, too; with `learn`, which is for a
        source's own bytes alone, what a provider's rule finds becomes one.
        """
        if len(data) > MAX_SCAN:
            raise ScanError(f"{len(data)} bytes are too many for one scan")
        proposer, rules = self._proposer(profile)
        findings: list[Finding] = []
        covers: list[Cover] = []
        try:
            for view in reversed(views(data)):
                marks, covered = self._scan_view(view, proposer, rules, live, carry)
                if known is not None:
                    marks = self._with_known(view.text, marks, known, live, learn)
                stride = view.stride
                taken = [(f.start, f.end) for f in findings]
                wide = [
                    Mark(m.start * stride, m.end * stride, m.priority, m.rule, m.kind)
                    for m in marks
                ]
                for mark in without(wide, taken):
                    end = min(mark.end, len(data))
                    findings.append(Finding(mark.start, end, mark.rule, mark.kind, view.unit))
                findings.sort(key=lambda f: f.start)
                covers += [
                    Cover(
                        c.start * stride, c.end * stride, c.mode, c.first * stride, c.last * stride
                    )
                    for c in covered
                ]
        except (re2.error, MemoryError, RecursionError) as error:
            raise ScanError(f"the scan stopped: {type(error).__name__}") from None
        return Scan([piece for f in findings for piece in pieces(f, origin)], covers)

    def _proposer(self, profile: str) -> tuple[propose.Proposer | SlowProposer, list[_Compiled]]:
        wanted = PROFILES[profile]
        with self._lock:
            known = self._proposers.get(profile)
            if known is None:
                rules = [c for c in self._rules if c.rule.profiles & wanted]
                patterns = [(c.rule.anchor or c.rule.pattern).encode("ascii") for c in rules]
                gaps = [c.rule.window for c in rules]
                keywords = [tuple(word.encode() for word in c.rule.keywords) for c in rules]
                proposer = propose.make(
                    [*patterns, _PLACEHOLDER_HINT],
                    [*gaps, 1 << 30],
                    self._cache_dir,
                    [*keywords, (b"mask",)],
                )
                known = self._proposers[profile] = (proposer, rules)
        return known

    def _scan_view(
        self,
        view: View,
        proposer: propose.Proposer | SlowProposer,
        rules: list[_Compiled],
        live: Live | None,
        carry: str,
    ) -> tuple[list[Mark], list[Cover]]:
        text = view.text
        ranges = proposer.ranges(text)
        hinted = ranges.pop(len(rules), None)
        if not ranges and not carry:
            return [], []
        marks: list[Mark] = []
        covers: list[Cover] = []
        if carry:
            self._follow(text, 0, 0, self._carried[carry], marks, covers, carried=True)
        attempts = MAX_ATTEMPTS
        for index, found in ranges.items():
            compiled = rules[index]
            for low, high in _windows(found, compiled, len(text)):
                attempts -= self._confirm(text, low, high, compiled, marks, covers, attempts)
        if self._allowed:
            marks = [mark for mark in marks if text[mark.start : mark.end] not in self._allowed]
        joined = _without_key_gaps(marks, covers)
        if hinted and live is not None:
            joined = without(joined, list(live(text)))
        return joined, covers

    def _with_known(
        self, text: bytes, marks: list[Mark], known: KnownValues, live: Live | None, learn: bool
    ) -> list[Mark]:
        if learn:
            known.learn(
                (text[mark.start : mark.end], mark.rule)
                for mark in marks
                if mark.priority >= SPECIFIC and mark.kind in ("credential", "token")
            )
        spans = known.spans(text)
        if not spans:
            return marks
        more = [Mark(start, end, KNOWN_PRIORITY, KNOWN_RULE, "credential") for start, end in spans]
        joined = union([*marks, *more])
        return joined if live is None else without(joined, list(live(text)))

    def _confirm(
        self,
        text: bytes,
        low: int,
        high: int,
        compiled: _Compiled,
        marks: list[Mark],
        covers: list[Cover],
        allowed: int,
    ) -> int:
        """Searches one window and returns the number of attempts that it took."""
        rule = compiled.rule
        group = compiled.group
        at = low
        tried = 0
        while at < high:
            match = compiled.regex.search(text, at, high)
            if match is None:
                break
            tried += 1
            if tried > allowed:
                raise ScanError("the scan stopped: too many candidates")
            start, end = match.span(group)
            if start < 0 or end <= start:
                at = max(match.end(), at + 1)
                continue
            value = text[start:end]
            if all(agrees(value) for agrees in compiled.validators):
                at = end
                if rule.extend:
                    at = self._follow(text, start, end, rule, marks, covers)
                else:
                    spans = [(start + a, start + b) for a, b in objects.texts(value)]
                    for a, b in spans or [(start, end)]:
                        marks.append(Mark(a, b, rule.priority, rule.id, rule.kind))
            else:
                # What was refused may hide the beginning of a match that holds.
                at = max(start, match.start() + 1)
        return tried

    def _follow(
        self,
        text: bytes,
        start: int,
        end: int,
        rule: Rule,
        marks: list[Mark],
        covers: list[Cover],
        carried: bool = False,
    ) -> int:
        """Adds the marks of a value that may go on behind its match; returns where it stops."""
        if rule.extend in ("wrapped", "values") and not carried:
            end = start
        body = bodies.follow(text, end, rule.extend, carried)
        if rule.extend in ("word", "base64"):
            stop = max(end, body.end)
            spans: Sequence[tuple[int, int]] = [(start, stop)] if stop > start else []
        else:
            stop, spans = max(end, body.end), body.spans
        kind: Kind = rule.kind
        marks.extend(Mark(a, b, rule.priority, rule.id, kind) for a, b in spans)
        if spans:
            covers.append(Cover(start, stop, rule.extend, spans[0][0], spans[-1][1]))
        return stop


def _windows(found: list[list[int]], compiled: _Compiled, size: int) -> Iterable[tuple[int, int]]:
    """The stretches to search, joined where they meet so that no byte is searched twice."""
    window = compiled.rule.window
    low = high = -1
    for first, last in found:
        begin = max(0, first - window)
        if begin > high:
            if high >= 0:
                yield low, high
            low = begin
        high = max(high, min(size, last + compiled.behind))
    if high >= 0:
        yield low, high


def _without_key_gaps(marks: list[Mark], covers: list[Cover]) -> list[Mark]:
    """Overlaps joined, but line breaks and armour inside a key's body left as they are.

    Every base64 piece of a body is a mark of its key already, so what another rule sees across
    pieces adds nothing but the line breaks between them.
    """
    keys = [mark for mark in marks if mark.kind == "private-key"]
    if not keys:
        return union(marks)
    holes: list[tuple[int, int]] = []
    for cover in sorted(covers, key=lambda c: c.first):
        if cover.mode not in ("pem", "wrapped"):
            continue
        if holes and cover.first <= holes[-1][1]:
            holes[-1] = (holes[-1][0], max(cover.last, holes[-1][1]))
        else:
            holes.append((cover.first, cover.last))
    others = union([mark for mark in marks if mark.kind != "private-key"])
    return union(keys + without(others, holes))


def _version(rules: list[Rule], allowed: frozenset[bytes]) -> str:
    """A hash of what decides the findings; equal rules in another order count as equal."""
    plain = sorted(repr(_decides(rule)) for rule in rules)
    exempt = [hashlib.sha256(value).hexdigest() for value in sorted(allowed)]
    text = "\n".join([str(REVISION), propose.library_version(), *plain, *exempt])
    return hashlib.sha256(text.encode()).hexdigest()


def _decides(rule: Rule) -> tuple[object, ...]:
    values = attrgetter(*Rule.__slots__)(rule)
    return tuple(sorted(one) if isinstance(one, frozenset) else one for one in values)
