"""Scan what is served: masked reads of a file of any size, at any offset, in bounded memory.

The file is cut into fixed blocks. A block is read once together with `MARGIN` on each side, that
window is scanned, and the masked bytes of the block out of that very window are what a read
returns: never the bytes of one look and the findings of another. A body that is longer than the
margin (a key of megabytes) is carried: a block whose left margin is unbroken body text inherits
what the block before it found there.

Worker threads may share a reader; no lock is held while a source is read or scanned.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable

from vfs.redaction.bodies import CARRY_TEXT
from vfs.redaction.engine import Engine
from vfs.redaction.errors import ScanError
from vfs.redaction.known import KnownValues
from vfs.redaction.placeholders import Masker
from vfs.redaction.spans import Finding

BLOCK = 1 << 20
"""Bytes. One scan's worth; a multiple of 4 and of `spans.PIECE`."""

MARGIN = 64 << 10
"""Bytes on each side. Tried: 4 KiB leaked up to 60 KB of key material, 64 KiB none."""

CACHED = 8
"""Masked blocks that are kept, least recently used dropped first."""

MAX_CARRY = 1 << 30
"""Bytes of unbroken body text before a block that are looked through for its beginning; behind
it a read fails. Sequential reads never need to."""

ReadAt = Callable[[int, int], bytes]
"""`read(offset, size)`: the source's bytes, fewer only at its end; raises OSError."""


class MaskedReader:
    """One version of a file. Whoever notices that the source changed makes a new reader."""

    def __init__(
        self,
        read: ReadAt,
        size: int,
        engine: Engine,
        masker: Masker,
        profile: str = "secrets",
        known: KnownValues | None = None,
        *,
        learn: bool = False,
    ) -> None:
        self._read = read
        self._engine = engine
        self._masker = masker
        self._profile = profile
        self._known = known
        self._learn = learn
        self._lock = threading.Lock()
        self._blocks: OrderedDict[int, tuple[bytes, tuple[Finding, ...]]] = OrderedDict()
        self._carries: dict[int, str] = {0: ""}
        self._counts: dict[int, int] = {}
        self.size = size

    @property
    def findings_count(self) -> int:
        """Findings that begin in the blocks that were scanned so far."""
        with self._lock:
            return sum(self._counts.values())

    def read(self, offset: int, size: int) -> bytes:
        """Masked bytes, fewer than `size` only at the end; raises ScanError, OSError."""
        end = min(offset + size, self.size)
        parts = []
        while offset < end:
            index, skip = divmod(offset, BLOCK)
            block = self._block(index)[0]
            part = block[skip : skip + end - offset]
            if not part:
                break
            parts.append(part)
            offset += len(part)
        return b"".join(parts)

    def ready(self, offset: int, size: int) -> bool:
        """True if `read` of this range would scan nothing."""
        last = min(offset + size, self.size) - 1
        with self._lock:
            return all(i in self._blocks for i in range(offset // BLOCK, last // BLOCK + 1))

    def findings_in(self, start: int, end: int) -> list[Finding]:
        """The findings that begin within `start` to `end`, in file offsets; scans as needed."""
        found = []
        for index in range(start // BLOCK, -(-min(end, self.size) // BLOCK)):
            found += [f for f in self._block(index)[1] if start <= f.start < end]
        return found

    def _block(self, index: int) -> tuple[bytes, tuple[Finding, ...]]:
        with self._lock:
            known = self._blocks.get(index)
            if known is not None:
                self._blocks.move_to_end(index)
                return known
        made = self._scan(index, self._carry(index))
        with self._lock:
            self._blocks[index] = made
            self._counts[index] = len(made[1])
            while len(self._blocks) > CACHED:
                self._blocks.popitem(last=False)
        return made

    def _scan(self, index: int, carry: str) -> tuple[bytes, tuple[Finding, ...]]:
        """Reads and scans one window, and notes what it hands on to the next block."""
        start, end = index * BLOCK, min((index + 1) * BLOCK, self.size)
        low, high = max(0, start - MARGIN), min(end + MARGIN, self.size)
        window = self._exactly(low, high - low)
        scan = self._engine.scan(
            window, self._profile, live=self._masker.live_spans, carry=carry, origin=low,
            known=self._known, learn=self._learn,
        )  # fmt: skip
        next_low = end - MARGIN - low
        modes = {c.mode for c in scan.covers if c.start < next_low < c.end}
        handed = next((mode for mode in ("pem", "wrapped", "base64", "word") if mode in modes), "")
        masked = self._masker.mask(window, scan.findings)[start - low : end - low]
        mine = tuple(
            Finding(f.start + low, f.end + low, f.rule, f.kind, f.unit)
            for f in scan.findings
            if start <= f.start + low < end
        )
        with self._lock:
            self._carries[index + 1] = handed
        return masked, mine

    def _carry(self, index: int) -> str:
        """The mode of the body that block `index`'s window begins in, or an empty string."""
        first = index
        while True:
            with self._lock:
                known = self._carries.get(first)
            if known is not None:
                break
            if not self._all_body(first):
                known = ""
                break
            first -= 1
            if (index - first) * BLOCK > MAX_CARRY:
                raise ScanError(
                    "a run of key-like text is too long to read from its middle",
                    "read the file from its beginning",
                )
        with self._lock:
            self._carries[first] = known
        for earlier in range(first, index):
            with self._lock:
                known = self._carries[earlier]
            self._scan(earlier, known)
        with self._lock:
            return self._carries[index]

    def _all_body(self, index: int) -> bool:
        """Whether the left margin of a block could be the middle of a body."""
        margin = self._exactly(index * BLOCK - MARGIN, MARGIN)
        return not margin.strip(CARRY_TEXT) and bool(margin.strip(b"\0"))

    def _exactly(self, offset: int, size: int) -> bytes:
        """`size` bytes, or fewer if the source has become shorter."""
        parts = []
        while size > 0:
            part = self._read(offset, size)
            if not part:
                break
            parts.append(part)
            offset += len(part)
            size -= len(part)
        return b"".join(parts)
