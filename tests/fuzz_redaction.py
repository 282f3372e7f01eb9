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
import zlib

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


def zipped(data: bytes) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("member", data)
    return held.getvalue()


def loose(data: bytes) -> bytes:
    """As git keeps one object."""
    return zlib.compress(b"blob %d\0" % len(data) + data)


def git_pack(data: bytes) -> bytes:
    """A pack of it and of what it is without its last third, told by a difference."""
    short = data[: len(data) * 2 // 3]
    first = entry(3, len(short)) + zlib.compress(short)
    delta = size(len(short)) + size(len(data))
    for at in range(0, len(short), 0xFFFF):
        length = min(0xFFFF, len(short) - at)
        delta += b"\xbf" + at.to_bytes(4, "little") + length.to_bytes(2, "little")
    rest = data[len(short) :]
    for at in range(0, len(rest), 127):
        delta += bytes([len(rest[at : at + 127])]) + rest[at : at + 127]
    back = len(first)
    offset = bytes([back & 0x7F])
    while back := (back >> 7):
        back -= 1
        offset = bytes([0x80 | back & 0x7F]) + offset
    second = entry(6, len(delta)) + offset + zlib.compress(delta)
    return b"PACK\0\0\0\2\0\0\0\2" + first + second + bytes(20)


def entry(kind: int, length: int) -> bytes:
    out = bytearray([kind << 4 | length & 15])
    length >>= 4
    while length:
        out[-1] |= 0x80
        out.append(length & 0x7F)
        length >>= 7
    return bytes(out)


def size(length: int) -> bytes:
    out = bytearray([length & 0x7F])
    while length := length >> 7:
        out[-1] |= 0x80
        out.append(length & 0x7F)
    return bytes(out)


PACKERS = (gzip.compress, zipped, loose, git_pack)


def look(rng: random.Random, redactor: Redactor, data: bytes) -> None:
    """The same in a container: what is found outside is found inside, and damage is no crash."""
    out = bytearray(rng.choice(PACKERS)(data))
    damaged = rng.random() < 0.5
    if damaged:
        out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    said = redactor.look_into(lambda at, length: bytes(out[at : at + length]), len(out))
    if not damaged and redactor.findings(data):
        assert said


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
        look(rng, redactor, data)
