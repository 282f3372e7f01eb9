"""`./dev bench redaction [--corpus FILE]`: what the engine finds, and how fast.

Without a file: speed on made-up texts, and findings in the Python packages of this machine, which
are known to hold no secrets worth the name. With one: labelled cases, a JSON object a line
(`source, kind, label, text, secret`), counted as recall and as the share of negatives hit.
"""

import gzip
import json
import os
import random
import statistics
import sysconfig
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from policies.packs import builtin_rules
from vfs.redaction import Engine, from_mapping

MIB = 1 << 20
PERSONAL = "secrets+pii"


def engine(cache_dir: Path | None = None) -> Engine:
    """With all shipped rules."""
    return Engine((from_mapping(plain, trusted=True) for plain in builtin_rules()), cache_dir)


# -- quality -------------------------------------------------------------------------------


@dataclass
class Count:
    """Of one source and kind, or of all."""

    known: int = 0
    whole: int = 0
    positives: int = 0
    overlapping: int = 0
    negatives: int = 0
    hit: int = 0
    missed: list[str] = field(default_factory=list)

    def row(self) -> str:
        def share(part: int, whole: int) -> str:
            return f"{part / whole:.3f} ({part}/{whole})" if whole else "–"

        return " | ".join(
            (
                share(self.whole, self.known),
                share(self.overlapping, self.positives),
                share(self.hit, self.negatives),
            )
        )


def cases(path: Path) -> Iterator[dict[str, str | None]]:
    """The labelled cases of a file, gzipped or not."""
    data = path.read_bytes()
    for line in (gzip.decompress(data) if path.suffix == ".gz" else data).splitlines():
        yield json.loads(line)


def whole(text: bytes, secret: bytes, hidden: set[int]) -> bool:
    """True if every byte of the secret is hidden; of multi-line keys the armour may stay."""
    wanted: set[int] = set()
    at = text.find(secret)
    wanted.update(range(at, at + len(secret)))
    if b"\n" in secret or b"\\n" in secret:
        for line in secret.replace(b"\\n", b"\n").split(b"\n"):
            if line.startswith(b"-----") or not line.strip():
                start = text.find(line, at) if line else -1
                wanted -= set(range(start, start + len(line))) if start >= 0 else set()
        wanted -= {spot for spot in wanted if text[spot : spot + 1] in b"\n\r\t \\n"}
    return wanted <= hidden


def count(path: Path, *, show: bool = False) -> dict[tuple[str, str], Count]:
    """Counts by source and kind; misses and hits are printed with *show*."""
    found: dict[tuple[str, str], Count] = defaultdict(Count)
    scanner = engine()
    for case in cases(path):
        source, kind = str(case["source"]), str(case["kind"])
        text = str(case["text"]).encode("utf-8", "surrogatepass")
        profile = PERSONAL if "presidio" in source else "secrets"
        findings = scanner.find(text, profile)
        hidden = {at for one in findings for at in range(one.start, one.end)}
        secret = case["secret"]
        for one in (found[source, kind], found["all", profile]):
            if case["label"] == "neg":
                one.negatives += 1
                one.hit += bool(findings)
                continue
            one.positives += 1
            if secret is None:
                one.overlapping += bool(findings)
                continue
            raw = secret.encode("utf-8", "surrogatepass")
            one.known += 1
            one.whole += whole(text, raw, hidden)
            at = text.find(raw)
            one.overlapping += bool(hidden & set(range(at, at + len(raw))))
        if show:
            if case["label"] == "neg" and findings:
                rules = ",".join(one.rule for one in findings)
                print(f"HIT  {source} {kind} [{rules}] {text[:300]!r}")
            elif case["label"] == "pos" and secret is not None:
                if not whole(text, secret.encode("utf-8", "surrogatepass"), hidden):
                    rules = ",".join(one.rule for one in findings)
                    print(f"MISS {source} {kind} [{rules}] {secret[:80]!r} IN {text[:300]!r}")
            elif case["label"] == "pos" and not findings:
                print(f"MISS {source} {kind} [] ? IN {text[:300]!r}")
    return found


def quality(path: Path, *, show: bool = False) -> str:
    """The table of a file of cases."""
    lines = [
        "| source | kind | whole-secret recall | overlap recall | negatives hit |",
        "| --- | --- | --- | --- | --- |",
    ]
    for (source, kind), one in sorted(count(path, show=show).items()):
        lines.append(f"| {source} | {kind} | {one.row()} |")
    lines.append(
        f"\nOf the negatives hit, {contested(path)} hold what another case calls a secret."
    )
    return "\n".join(lines) + "\n"


def contested(path: Path) -> int:
    """Negatives whose finding stands in a positive: one source's rule is not to fire on what
    another's has to."""
    scanner = engine()
    secrets = [case for case in cases(path) if "presidio" not in str(case["source"])]
    texts = "\0".join(str(case["text"]) for case in secrets if case["label"] == "pos")
    positives = texts.encode("utf-8", "surrogatepass")
    found = 0
    for case in secrets:
        text = str(case["text"]).encode("utf-8", "surrogatepass")
        if case["label"] == "neg":
            found += any(text[one.start : one.end] in positives for one in scanner.find(text))
    return found


# -- speed ---------------------------------------------------------------------------------


def sources(most: int) -> bytes:
    """Python code of this machine, up to so many bytes."""
    parts, size = [], 0
    for path in sorted(Path(sysconfig.get_path("stdlib")).rglob("*.py")):
        if "/test/" in str(path) or "/site-packages/" in str(path):
            continue
        data = path.read_bytes()
        parts.append(data)
        size += len(data)
        if size >= most:
            break
    return b"".join(parts)


def near_misses(size: int) -> bytes:
    """Text that rules look at closely and find nothing in."""
    rng = random.Random(1)
    lines = []
    while sum(map(len, lines[-1:])) >= 0 and len(lines) * 60 < size:
        word = rng.choice(("password", "token", "api_key", "secret", "AKIA", "ghp_", "sk_live_"))
        lines.append(f"{word} = get_{word}(self.{word}, 'changeme') # {word}_{rng.random()}\n")
    return "".join(lines).encode()


def named(size: int) -> bytes:
    """Text of nothing but providers' names that something is assigned to."""
    rng = random.Random(1)
    words = sorted(r["keywords"][0] for r in builtin_rules() if r["id"].endswith("-named"))
    return "".join(f"{rng.choice(words)} = " for _ in range(size // 11)).encode()


def _best(work: "list[bytes]", scanner: Engine, times: int) -> float:
    """Median seconds of a scan of all of these."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        for data in work:
            scanner.find(data)
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def speed(cache_dir: Path) -> list[tuple[str, ...]]:
    """Rows of what a scan costs."""
    engine(cache_dir).find(b"x")
    before = _resident()
    start = time.perf_counter()
    scanner = engine(cache_dir)
    built = time.perf_counter() - start
    start = time.perf_counter()
    scanner.find(b"x")
    loaded = time.perf_counter() - start
    code = sources(24 * MIB)
    pieces = [code[at : at + MIB] for at in range(0, len(code), MIB)]
    small = [code[at : at + 4096] for at in range(0, len(code), 4096)][:2000]
    miss = near_misses(4 * MIB)
    names = named(MIB)
    one = []
    for data in small:
        start = time.perf_counter()
        scanner.find(data)
        one.append(time.perf_counter() - start)
    clean = sum(len(scanner.find(data)) for data in pieces)
    return [
        ("rules", f"{len(builtin_rules())}"),
        ("clean code, MB/s a core", f"{len(code) / _best(pieces, scanner, 3) / 1e6:.0f}"),
        ("a file of 4 KB, µs (median)", f"{statistics.median(one) * 1e6:.0f}"),
        ("near misses only, MB/s", f"{len(miss) / _best([miss], scanner, 3) / 1e6:.1f}"),
        ("providers' names only, MB/s", f"{len(names) / _best([names], scanner, 3) / 1e6:.1f}"),
        ("findings per MB of clean code", f"{clean / (len(code) / 1e6):.2f}"),
        ("rules made and checked, ms", f"{built * 1e3:.1f}"),
        ("compiled rules from their cache, ms", f"{loaded * 1e3:.1f}"),
        ("memory for the engine, MB", f"{(_resident() - before) / 1e6:.0f}"),
    ]
