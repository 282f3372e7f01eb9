"""Known values: secrets that a specific rule found in a source, masked wherever else they stand.

Values are learned from source bytes alone, never from what an agent wrote: else a guess that it
writes would change what a source shows, and tell it that the guess was right. They live in
memory; whoever makes a `KnownValues` is told of each change, and may keep them sealed.
"""

import threading
from collections.abc import Callable, Iterable, Mapping

from vfs.redaction import propose
from vfs.redaction.propose_slow import SlowProposer
from vfs.redaction.validators import entropy

MIN_LENGTH = 12
MAX_LENGTH = 512
"""Bytes. Keys of several lines have rules of their own."""

MIN_ENTROPY = 3.0
"""Bits a byte."""

MAX_VALUES = 4096
"""Further ones are not learned; nobody has so many, but a hostile file may."""


class KnownValues:
    """The known values of one workspace; safe from any thread."""

    def __init__(
        self,
        values: Mapping[bytes, str] | None = None,
        changed: Callable[[dict[bytes, str]], None] = lambda _values: None,
    ) -> None:
        """`values` with the rule that each was found by; `changed` is given all of them."""
        self._lock = threading.Lock()
        self._changed = changed
        self._values = dict(values or {})
        self._finder: tuple[propose.Proposer | SlowProposer, list[bytes]] | None = None
        self.generation = 0

    def learn(self, found: Iterable[tuple[bytes, str]]) -> None:
        """Add of the values, each with its rule, what is long and random enough."""
        fresh = [
            (value, rule)
            for value, rule in found
            if value not in self._values
            and MIN_LENGTH <= len(value) <= MAX_LENGTH
            and entropy(value) >= MIN_ENTROPY
        ]
        if not fresh:
            return
        with self._lock:
            before = len(self._values)
            for value, rule in fresh:
                if len(self._values) < MAX_VALUES:
                    self._values[value] = rule
            if len(self._values) != before:
                self._has_changed()

    def retain(self, holds: Callable[[bytes, str], bool]) -> None:
        """Forget the values of which this is not true: their rule is gone, or they are allowed."""
        with self._lock:
            kept = {value: rule for value, rule in self._values.items() if holds(value, rule)}
            if len(kept) != len(self._values):
                self._values = kept
                self._has_changed()

    def _has_changed(self) -> None:
        self._finder = None
        self.generation += 1
        self._changed(dict(self._values))

    def spans(self, text: bytes) -> list[tuple[int, int]]:
        """Where known values stand in a text, unsorted. Raises ScanError."""
        if not self._values:
            return []
        proposer, values = self._ready()
        found = []
        for index, ranges in proposer.ranges(text).items():
            size = len(values[index])
            found += [(end - size, end) for end, _last in ranges]
        return found

    def _ready(self) -> tuple[propose.Proposer | SlowProposer, list[bytes]]:
        with self._lock:
            if self._finder is None:
                values = list(self._values)
                patterns = [b"".join(b"\\x%02x" % byte for byte in value) for value in values]
                self._finder = propose.make(patterns, [0] * len(values)), values
            return self._finder
