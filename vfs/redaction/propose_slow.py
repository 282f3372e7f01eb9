"""The proposer for machines without hyperscan: keywords first, then RE2, a rule at a time.

Some ten times slower, and as linear: a rule is looked for only where one of its keywords stands.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import re2

from vfs.redaction.errors import ScanError

MAX_MATCHES = 8_000_000
"""In one scan; beyond it the scan is refused."""


class SlowProposer:
    """As `propose.Proposer`; `keywords` of a pattern are in small letters, none means any text."""

    def __init__(
        self,
        patterns: Sequence[bytes],
        gaps: Sequence[int],
        keywords: Sequence[Sequence[bytes]] = (),
    ) -> None:
        """Raises ScanError if RE2 refuses a pattern."""
        words = [*keywords, *([()] * (len(patterns) - len(keywords)))]
        self._rules = [_Rule(p, g, tuple(w)) for p, g, w in zip(patterns, gaps, words, strict=True)]

    def ranges(self, text: bytes) -> dict[int, list[list[int]]]:
        """Where each pattern may end; raises ScanError, never returns a part of the answer."""
        lowered = text.lower()
        found: dict[int, list[list[int]]] = {}
        met: dict[bytes, bool] = {}
        budget = MAX_MATCHES
        for index, rule in enumerate(self._rules):
            for word in rule.keywords:
                if word not in met:
                    met[word] = word in lowered
            if rule.keywords and not any(met[word] for word in rule.keywords):
                continue
            known: list[list[int]] = []
            for match in rule.regex.finditer(text):
                budget -= 1
                if budget < 0:
                    raise ScanError("the scan stopped: too many candidates")
                end = match.end()
                if known and end - known[-1][1] <= rule.gap:
                    known[-1][1] = max(known[-1][1], end)
                else:
                    known.append([end, end])
            if known:
                found[index] = known
        return found


class _Rule:
    def __init__(self, pattern: bytes, gap: int, keywords: tuple[bytes, ...]) -> None:
        self.pattern, self.gap, self.keywords = pattern, gap, keywords

    @cached_property
    def regex(self) -> Any:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.log_errors = False
        try:
            return re2.compile(self.pattern, options)
        except re2.error as error:
            raise ScanError(f"the rules do not compile: {error}", "check your rule packs") from None
