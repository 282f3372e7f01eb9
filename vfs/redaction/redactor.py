"""The redactor: what the rest of the vfs uses of redaction.

One for each workspace, safe from any thread. Every byte of a source passes through `snapshot` or
`reader` before an agent sees it; both mask with the same rules and key, and `restore` undoes it.
"""

from dataclasses import dataclass, replace

from vfs.redaction import containers
from vfs.redaction.engine import PROFILES, Engine
from vfs.redaction.known import KnownValues
from vfs.redaction.placeholders import Masker
from vfs.redaction.restore import Known, Mode, Restoration, Undecided, restore
from vfs.redaction.spans import Finding
from vfs.redaction.stream import BLOCK, MaskedReader, ReadAt

SNAPSHOT_MAX = BLOCK
"""Bytes. Files up to this size are served from one masked snapshot, larger ones by blocks."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Masked bytes and where they were masked; holds no original."""

    data: bytes
    findings: tuple[Finding, ...]


class PlainReader:
    """The reader of profile `none`: the source's bytes as they are."""

    def __init__(self, read: ReadAt, size: int) -> None:
        self._read = read
        self.size = size
        self.findings_count = 0

    def read(self, offset: int, size: int) -> bytes:
        """As `MaskedReader.read`, without masking; raises OSError."""
        return self._read(offset, max(0, min(size, self.size - offset)))

    def ready(self, offset: int, size: int) -> bool:
        """Nothing has to be scanned."""
        return True

    def findings_in(self, start: int, end: int) -> list[Finding]:
        """Nothing is looked for, so nothing is found."""
        return []


class Redactor:
    """Masks and restores with one engine and one key."""

    def __init__(self, engine: Engine, masker: Masker, known: KnownValues | None = None) -> None:
        self.engine = engine
        self.masker = masker
        self.known = known or KnownValues()
        self.known.retain(engine.knows)

    def use(self, engine: Engine) -> None:
        """Find by other rules from now on; whoever holds masked bytes sees it by `version`."""
        self.engine = engine
        self.known.retain(engine.knows)

    @property
    def version(self) -> str:
        """Changes with the rules, the engine and the known values: part of the key of whatever
        caches findings."""
        return f"{self.engine.version}.{self.known.generation}"

    def snapshot(self, data: bytes, profile: str = "secrets") -> Snapshot:
        """Masks a source's `data` as a whole; raises ScanError, KeyError for an unknown profile."""
        if profile == "none":
            return Snapshot(data, ())
        findings = self.findings(data, profile, learn=True)
        return Snapshot(self.masker.mask(data, findings), tuple(findings))

    def reader(
        self, read: ReadAt, size: int, profile: str = "secrets"
    ) -> MaskedReader | PlainReader:
        """Masked reads of a source of `size` bytes; raises KeyError for an unknown profile."""
        if profile == "none":
            return PlainReader(read, size)
        if profile not in PROFILES:
            raise KeyError(profile)
        return MaskedReader(read, size, self.engine, self.masker, profile, self.known, learn=True)

    def holds_finding(self, text: bytes, profile: str = "secrets") -> bool:
        """True if a short text holds a finding; nothing is learned of it. Raises ScanError."""
        return bool(self.findings(text, profile))

    def container(self, head: bytes, profile: str = "secrets") -> bool:
        """True for the beginning of a file that has to be looked into, not only masked."""
        return profile != "none" and containers.kind_of(head) != ""

    def look_into(self, read: ReadAt, size: int, profile: str = "secrets") -> frozenset[str]:
        """What is to be said of a container's contents, as labels that policy rules match:
        `secrets-in-archive`, `unreadable-document` and so on. Raises ScanError, OSError."""
        kind = containers.kind_of(read(0, containers.HEAD))
        if not kind or profile == "none":
            return frozenset()
        try:
            found = containers.holds_findings(
                read, size, lambda data: bool(self.engine.find(data, profile, known=self.known))
            )
        except containers.Unreadable:
            return frozenset({f"unreadable-{kind}"})
        return frozenset({f"secrets-in-{kind}"} if found else ())

    def findings(
        self, data: bytes, profile: str = "secrets", *, learn: bool = False
    ) -> list[Finding]:
        """The findings in a whole file, as the path that serves files of its size has them.

        `learn` only from a source's own bytes. Raises ScanError.
        """
        if profile == "none":
            return []
        if len(data) <= SNAPSHOT_MAX:
            return self.engine.find(
                data, profile, live=self.masker.live_spans, known=self.known, learn=learn
            )
        reader = MaskedReader(
            lambda offset, size: data[offset : offset + size],
            len(data), self.engine, self.masker, profile, self.known, learn=learn,
        )  # fmt: skip
        return reader.findings_in(0, len(data))

    def values(self, shown: bytes, profile: str = "secrets") -> set[bytes]:
        """The secrets in what an agent wrote, its placeholders left out, by the rules alone: known
        values are not asked for, so a guess that is right looks like one that is wrong. Raises
        ScanError."""
        found = self.engine.find(shown, profile, live=self.masker.live_spans)
        return {shown[one.start : one.end] for one in found}

    def restore(
        self,
        staged: bytes,
        base: bytes,
        profile: str = "secrets",
        *,
        mode: Mode = "ask",
        known: Known | None = None,
    ) -> Restoration:
        """Scans `base` again and puts its secrets back into `staged`; see `restore.restore`."""
        findings = self.findings(base, profile)
        result = restore(staged, base, findings, self.masker, mode=mode, known=known)
        if mode != "keep" and staged != base and self._packs_placeholders(staged):
            packed = Undecided(0, len(staged), "packed")
            result = replace(result, undecided=(*result.undecided, packed))
        return result

    def _packs_placeholders(self, staged: bytes) -> bool:
        """True if an archive or an object of git's holds placeholders, which nothing can put back.
        Of one that cannot be looked into nobody knows."""
        if not containers.kind_of(staged[: containers.HEAD]):
            return False
        try:
            return containers.holds_findings(
                lambda offset, size: staged[offset : offset + size],
                len(staged),
                lambda text: bool(self.masker.live_spans(text)),
            )
        except containers.Unreadable:
            return False
