"""Archives and documents are looked into, within bounds, and never taken for clean unseen."""

import bz2
import gzip
import io
import lzma
import random
import tarfile
import zipfile
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.packs import builtin_rules
from vfs.redaction import Engine, Masker, Redactor, containers, from_mapping

REDACTOR = Redactor(
    Engine(from_mapping(plain, trusted=True) for plain in builtin_rules()), Masker(b"k" * 32)
)
TOKEN = b"ghp_" + b"R4nd0mT0kenOfThirtySixCharacters9zQ1"
SECRET = b"[core]\ntoken = " + TOKEN + b"\n"
CLEAN = b"nothing to see here\n" * 50


def labels(data: bytes) -> frozenset[str]:
    assert REDACTOR.container(data[: containers.HEAD]) == bool(containers.kind_of(data[:512]))
    return REDACTOR.look_into(lambda at, size: data[at : at + size], len(data))


def zipped(*members: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", method) as archive:
        for name, data in members:
            archive.writestr(name, data)
    return made.getvalue()


def tarred(*members: tuple[str, bytes], mode: str = "w") -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def pdf(text: bytes) -> bytes:
    stream = zlib.compress(b"BT (" + text + b") Tj ET")
    head = b"%%PDF-1.4\n1 0 obj\n<</Length %d /Filter /FlateDecode>>\nstream\n" % len(stream)
    return head + stream + b"\nendstream\nendobj\n%%EOF\n"


WRAPPED: dict[str, Callable[[bytes], bytes]] = {
    "zip": lambda d: zipped(("a", CLEAN), ("b/.env", d)),
    "zip stored": lambda d: zipped(("a", d), method=zipfile.ZIP_STORED),
    "zip bzip2": lambda d: zipped(("a", d), method=zipfile.ZIP_BZIP2),
    "zip lzma": lambda d: zipped(("a", d), method=zipfile.ZIP_LZMA),
    "gzip": gzip.compress,
    "gzip of two": lambda d: gzip.compress(CLEAN) + gzip.compress(d),
    "bzip2": bz2.compress,
    "bzip2 of two": lambda d: bz2.compress(CLEAN) + bz2.compress(d),
    "xz": lzma.compress,
    "lzma": lambda d: lzma.compress(d, lzma.FORMAT_ALONE),
    "tar": lambda d: tarred(("a", CLEAN), ("b", d)),
    "tar.gz": lambda d: tarred(("a", d), mode="w:gz"),
    "tar.xz in zip": lambda d: zipped(("t.tar.xz", tarred(("a", d), mode="w:xz"))),
    "docx": lambda d: zipped(("[Content_Types].xml", b"<x/>"), ("word/document.xml", d)),
    "odt": lambda d: zipped(("mimetype", b"application/vnd.oasis"), ("content.xml", d)),
    "pdf": pdf,
    "old office": lambda d: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + d,
}


@pytest.mark.parametrize("how", WRAPPED)
def test_what_is_inside_is_found(how: str) -> None:
    kind = "document" if how in ("docx", "odt", "pdf", "old office") else "archive"
    assert labels(WRAPPED[how](SECRET)) == {f"secrets-in-{kind}"}
    assert labels(WRAPPED[how](CLEAN)) == frozenset()


@pytest.mark.parametrize("data", [b"", b"plain", b"PK", SECRET, b"x" * 600])
def test_other_files_are_no_containers(data: bytes) -> None:
    assert labels(data) == frozenset()


def test_a_secret_across_the_parts_of_a_large_member_is_found() -> None:
    data = b"y" * (containers.PART - 10) + b"\n" + SECRET + b"y" * containers.PART
    assert labels(gzip.compress(data)) == {"secrets-in-archive"}


@pytest.mark.parametrize(
    "data",
    [
        gzip.compress(CLEAN)[:-10],
        lzma.compress(CLEAN)[:40],
        zipped(("a", CLEAN))[:-10],
        b"7z\xbc\xaf\x27\x1c" + bytes(100),
        b"\x28\xb5\x2f\xfd" + bytes(100),
        b"PK\x03\x04" + bytes(100),
        gzip.compress(CLEAN) + b"trailing bytes that are no member",
    ],
    ids=["gzip cut", "xz cut", "zip cut", "7z", "zstd", "zip of nothing", "gzip and more"],
)
def test_what_cannot_be_looked_at_is_said(data: bytes) -> None:
    assert labels(data) == {"unreadable-archive"}


def test_a_bomb_is_given_up_on() -> None:
    bomb = gzip.compress(gzip.compress(bytes(200 << 20), 9), 9)
    assert labels(bomb) == {"unreadable-archive"}


def test_nested_too_deep_is_given_up_on() -> None:
    data = SECRET
    for _ in range(6):
        data = zipped(("inner.zip", data), method=zipfile.ZIP_STORED)
    # Stored members are plain in the outer file's bytes, so that they are found all the same.
    assert labels(data) == {"secrets-in-archive"}
    data = SECRET
    for _ in range(6):
        data = gzip.compress(data)
    assert labels(data) == {"unreadable-archive"}


def test_too_many_members_are_given_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "MAX_MEMBERS", 10)
    assert labels(zipped(*((str(n), b"x") for n in range(11)))) == {"unreadable-archive"}


def test_names_of_members_lead_nowhere() -> None:
    made = tarred(("../../../etc/shadow", CLEAN), ("/etc/passwd", SECRET))
    assert labels(made) == {"secrets-in-archive"}


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(sorted(WRAPPED)))
def test_hostile_bytes_end_in_a_label(seed: int, how: str) -> None:
    """Cut, overwritten and repeated: an answer or `Unreadable`, no other exception."""
    rng = random.Random(seed)
    data = bytearray(WRAPPED[how](SECRET))
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(8)] = rng.randbytes(rng.randrange(8))
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    labels(bytes(data))
