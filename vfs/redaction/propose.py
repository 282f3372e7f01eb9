"""The proposer: one hyperscan pass over some bytes, for all rules of a profile at once.

It says where a rule may match, as ranges of the ends that hyperscan reported; `engine` confirms.
No start of match is asked for (it costs several times the scan). Safe from any thread: the
database is shared, the scratch space is one a thread, and hyperscan lets the interpreter lock go
while it scans. A compiled database is kept in the cache folder, bound to the patterns, the
library's version and its own checksum; a file that does not fit is made anew.
"""

import hashlib
import os
import tempfile
import threading
import zlib
from collections.abc import Sequence
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from vfs.redaction.errors import ScanError
from vfs.redaction.propose_slow import SlowProposer


def sound(library: Any) -> bool:
    """Whether a hyperscan finds what Vectorscan 5.4.12 misses: a pattern that it skips ahead for by
    a pair of characters, some vectors into the text. A library that misses matches lets secrets
    through, so it counts as none."""
    database = library.Database(mode=library.HS_MODE_BLOCK)
    database.compile(expressions=[rb"\s--?(?:[a-z][\w\-]{0,30})?password"], ids=[0], flags=[0])
    found: list[int] = []
    for gap in range(64):
        database.scan(
            b"x" * gap + b" -password",
            match_event_handler=lambda *_event, gap=gap: found.append(gap),
            scratch=library.Scratch(database),
        )
    return found == list(range(64))


hyperscan: Any = None
WITHOUT = "hyperscan is missing"
"""Why the slower proposer serves, where it does."""
try:
    hyperscan = import_module("hyperscan")
except ImportError:  # no wheel for this machine
    pass
else:
    if not sound(hyperscan):
        hyperscan, WITHOUT = None, "this hyperscan misses matches"

MAX_EVENTS = 8_000_000
"""Reported ends in one scan. At some 0.3 µs each this is seconds; beyond it the scan is refused."""

Ranges = dict[int, list[list[int]]]
"""For each pattern's index, ranges `[first, last]` of reported ends, in order."""


def make(
    patterns: Sequence[bytes],
    gaps: Sequence[int],
    cache_dir: Path | None = None,
    keywords: Sequence[Sequence[bytes]] = (),
) -> "Proposer | SlowProposer":
    """The proposer for this machine. Raises ScanError if a pattern is refused."""
    if hyperscan is None:
        return SlowProposer(patterns, gaps, keywords)
    return Proposer(patterns, gaps, cache_dir)


class Proposer:
    """`patterns` are scanned together; ends nearer than `gaps[index]` bytes are one range."""

    def __init__(
        self, patterns: Sequence[bytes], gaps: Sequence[int], cache_dir: Path | None = None
    ) -> None:
        """Raises ScanError if hyperscan refuses a pattern."""
        self._gaps = list(gaps)
        self._local = threading.local()
        self._database = _load(list(patterns), cache_dir)

    def ranges(self, text: bytes) -> Ranges:
        """Where each pattern may end; raises ScanError, never returns a part of the answer."""
        found: Ranges = {}
        gaps = self._gaps
        budget = MAX_EVENTS

        def report(index: int, _start: int, end: int, _flags: int, _context: object) -> bool | None:
            nonlocal budget
            budget -= 1
            known = found.get(index)
            if known is None:
                found[index] = [[end, end]]
                return None
            last = known[-1]
            if end - last[1] <= gaps[index]:
                if end > last[1]:
                    last[1] = end
            else:
                known.append([end, end])
            return True if budget < 0 else None

        try:
            self._database.scan(text, match_event_handler=report, scratch=self._scratch())
        except (hyperscan.error, MemoryError) as error:
            reason = "too many candidates" if budget < 0 else type(error).__name__
            raise ScanError(f"the scan stopped: {reason}") from None
        return found

    def _scratch(self) -> Any:
        scratch = getattr(self._local, "scratch", None)
        if scratch is None:
            scratch = self._local.scratch = hyperscan.Scratch(self._database)
        return scratch


def library_version() -> str:
    """The wheel's version and that of the library inside it; `re2` where there is none."""
    if hyperscan is None:
        return "re2"
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    database.compile(expressions=[b"a"], ids=[0], flags=[0])
    return f"{metadata.version('hyperscan')} {database.info()!r}"


def _load(patterns: list[bytes], cache_dir: Path | None) -> Any:
    if cache_dir is None:
        return _compile(patterns)
    name = hashlib.sha256(library_version().encode() + b"\0" + b"\0".join(patterns)).hexdigest()
    path = cache_dir / f"rules-{name[:32]}.hsdb"
    database = _read_cache(path)
    if database is None:
        database = _compile(patterns)
        _write_cache(path, hyperscan.dumpb(database))
    return database


def _compile(patterns: list[bytes]) -> Any:
    database = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    try:
        database.compile(
            expressions=patterns, ids=list(range(len(patterns))), flags=[0] * len(patterns)
        )
    except hyperscan.error as error:
        raise ScanError(f"the rules do not compile: {error}", "check your rule packs") from None
    return database


def _read_cache(path: Path) -> Any:
    """hyperscan loads a damaged database without complaint, hence the checksum before it.

    It is for damage, not for malice: who may write here is the user, whose rules these are.
    """
    try:
        with path.open("rb", buffering=0) as file:
            checksum, database = file.read(4), file.readall()
    except OSError:
        return None
    if zlib.crc32(database).to_bytes(4, "big") != checksum:
        return None
    try:
        return hyperscan.loadb(database, mode=hyperscan.HS_MODE_BLOCK)
    except hyperscan.error:
        return None


def _write_cache(path: Path, database: bytes) -> None:
    """The cache only saves time, so a folder that takes no file is no error."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".rules-")
        with os.fdopen(handle, "wb") as file:
            file.write(zlib.crc32(database).to_bytes(4, "big") + database)
        os.replace(temporary, path)
    except OSError:
        return
