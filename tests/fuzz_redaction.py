"""Hostile files through the scanner, the masker and the unpackers: no crash, no leak.

A file is put together of what the rules look for, of placeholders, key bodies, binary and
encodings, then cut and overwritten. Whatever comes of it: masking keeps the length and shows no
byte of a finding, any split of reads is one read, what was masked is put back byte for byte, and
a container is answered with labels. `./dev soak` runs it for long.
"""

import gzip
import io
import random
import zipfile

from policies.packs import builtin_packs, builtin_rules
from vfs.redaction import Engine, Masker, Redactor, ScanError, from_mapping
from vfs.redaction.views import STRIDE

PROFILES = ("secrets", "secrets+pii", "strict")
EXAMPLES = [
    example.text.encode()
    for pack in builtin_packs()
    for rule in pack.pack_rules
    for example in (*rule.examples.match, *rule.examples.no_match)
]
KEY = b"-----BEGIN OPENSSH PRIVATE KEY-----\n" + b"b3BlbnNzaC1rZXktdjEAAAAABG5v\n" * 40
ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be", "utf-16", "utf-32-le", "utf-32")


def engine() -> Engine:
    """With all shipped rules."""
    return Engine(from_mapping(plain, trusted=True) for plain in builtin_rules())


def made_up(rng: random.Random, masker: Masker, scanner: Engine) -> bytes:
    """A file that nobody would write."""
    parts = []
    for _ in range(rng.randrange(1, 40)):
        kind = rng.randrange(9)
        example = rng.choice(EXAMPLES)
        if kind < 3:
            parts.append(example)
        elif kind == 3:
            parts.append(masker.mask(example, scanner.find(example)))
        elif kind == 4:
            parts.append(KEY[: rng.randrange(len(KEY))])
        elif kind == 5:
            parts.append(rng.randbytes(rng.randrange(200)))
        elif kind == 6:
            text = example.decode("utf-8", "replace")
            parts.append(text.encode(rng.choice(ENCODINGS)))
        elif kind == 7:
            parts.append(bytes((rng.randrange(256),)) * rng.randrange(5000))
        else:
            parts.append(example.replace(b"\n", b"\r\n").replace(b" ", b""))
    data = bytearray(b"".join(parts))
    for _ in range(rng.randrange(6)):
        if data:
            at = rng.randrange(len(data))
            data[at : at + rng.randrange(20)] = rng.randbytes(rng.randrange(20))
    return bytes(data)


def packed(rng: random.Random, data: bytes) -> bytes:
    """The same in a container, damaged now and then."""
    if rng.random() < 0.5:
        out = bytearray(gzip.compress(data))
    else:
        held = io.BytesIO()
        with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("member", data)
        out = bytearray(held.getvalue())
    if rng.random() < 0.5:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def check(rng: random.Random, redactor: Redactor, data: bytes) -> None:
    """All that has to hold for one file."""
    profile = rng.choice(PROFILES)
    try:
        shown = redactor.snapshot(data, profile)
    except ScanError:
        return
    assert len(shown.data) == len(data)
    at = 0
    for one in shown.findings:
        assert at <= one.start < one.end <= len(data)
        assert shown.data[at : one.start] == data[at : one.start]
        step = STRIDE[one.unit]  # a character, which in wide text is several bytes, is another one
        for spot in range(one.start, one.end, step):
            unit = data[spot : spot + step]
            assert not any(unit) or shown.data[spot : spot + step] != unit, (one, spot)
        at = one.end
    assert shown.data[at:] == data[at:]
    reader = redactor.reader(lambda o, n: data[o : o + n], len(data), profile)
    again, at = b"", 0
    while at < len(data):
        size = rng.choice((1, 7, 100, 4096, len(data)))
        again += reader.read(at, size)
        at += size
    assert again == redactor.snapshot(data, profile).data
    put_back = redactor.restore(shown.data, data, profile)
    assert put_back.data == data or put_back.undecided


def fuzz(seed: int, files: int) -> None:
    """So many files; raises AssertionError with the bytes of the one that fails."""
    rng = random.Random(seed)
    scanner = engine()
    for _ in range(files):
        masker = Masker(rng.randbytes(32))
        redactor = Redactor(scanner, masker)
        data = made_up(rng, masker, scanner)
        check(rng, redactor, data)
        inside = packed(rng, data)
        redactor.look_into(lambda o, n, d=inside: d[o : o + n], len(inside))  # type: ignore[misc]
