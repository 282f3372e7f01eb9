"""Git's object files are looked into as git reads them: every object, whatever it is built on."""

import hashlib
import os
import random
import subprocess
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policies.packs import builtin_rules
from vfs.redaction import Engine, Masker, Redactor, containers, from_mapping, git_objects

REDACTOR = Redactor(
    Engine(from_mapping(plain, trusted=True) for plain in builtin_rules()), Masker(b"k" * 32)
)
TOKEN = b"ghp_" + b"R4nd0mT0kenOfThirtySixCharacters9zQ1"
LINES = [b"line %d of a file that changes little\n" % n for n in range(400)]


def labels(data: bytes) -> frozenset[str]:
    if not REDACTOR.container(data[: containers.HEAD]):
        return frozenset()
    return REDACTOR.look_into(lambda at, size: data[at : at + size], len(data))


def git(repo: Path, *arguments: str, data: bytes | None = None) -> bytes:
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(repo), "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a",
        "GIT_COMMITTER_EMAIL": "a@b",
    }  # fmt: skip
    done = subprocess.run(
        ["git", "-C", str(repo), *arguments], input=data, env=environment, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def repository(repo: Path, secret: bytes | None) -> Path:
    """Forty versions of a file; the secret stood in one of them, in the middle of it."""
    repo.mkdir()
    git(repo, "init", "-q")
    lines = list(LINES)
    (repo / "notes").write_bytes(b"\n".join(LINES[:20]))
    for version in range(40):
        lines[version * 9] = b"changed in version %d\n" % version
        held = lines.copy()
        if version == 23 and secret is not None:
            held[200] = b"token = " + secret + b"\n"
        (repo / "file").write_bytes(b"".join(held))
        git(repo, "add", ".")
        git(repo, "commit", "-qm", f"version {version}")
    return repo


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("git") / "clean", None)


@pytest.fixture(scope="module")
def leaking(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return repository(tmp_path_factory.mktemp("git") / "leaking", TOKEN)


PACKED = {
    "offsets": ("pack-objects", "--all", "--stdout", "--delta-base-offset", "-q"),
    "hashes": ("pack-objects", "--all", "--stdout", "-q"),
    "no differences": ("pack-objects", "--all", "--stdout", "-q", "--depth=0"),
    "long chains": ("pack-objects", "--all", "--stdout", "-q", "--depth=200", "--window=50"),
    "bundle": ("bundle", "create", "-", "--all"),
}


@pytest.mark.parametrize("how", PACKED)
def test_a_secret_of_one_version_is_found_in_a_pack(how: str, clean: Path, leaking: Path) -> None:
    assert labels(git(clean, *PACKED[how], data=b"")) == frozenset()
    assert labels(git(leaking, *PACKED[how], data=b"")) == {"secrets-in-git"}


@pytest.mark.parametrize("how", ["offsets", "hashes", "long chains"])
def test_a_pack_is_read_as_git_reads_it(
    how: str, leaking: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where bases have to be put together anew, as none is kept."""
    data = git(leaking, *PACKED[how], data=b"")
    listed = git(leaking, "cat-file", "--batch-all-objects", "--batch-check").split(b"\n")
    wanted = {line.split()[0].decode() for line in listed if line}
    for most in (git_objects.MAX_BASES, 0):
        monkeypatch.setattr(git_objects, "MAX_BASES", most)
        pack = git_objects._Pack(
            lambda at, size: data[at : at + size], 0, lambda _size: None, lambda _head: False
        )
        made: dict[str, bytes] = {}
        real = pack._keep

        def keep(at: int, kind: int, body: bytes, made: dict[str, bytes] = made) -> None:
            head = git_objects._KINDS[kind - 1] + b"%d\0" % len(body)
            made[hashlib.sha1(head + body).hexdigest()] = body
            real(at, kind, body)  # noqa: B023

        monkeypatch.setattr(pack, "_keep", keep)
        given_out = b"".join(pack.texts())
        assert set(made) == wanted
        assert TOKEN in given_out
        assert b"changed in version 39\n" in given_out


def test_loose_objects(clean: Path, leaking: Path) -> None:
    for repo, expected in ((clean, 0), (leaking, 1)):
        objects = [path.read_bytes() for path in repo.glob(".git/objects/??/*")]
        assert len(objects) > 100
        assert all(containers.kind_of(data[: containers.HEAD]) == "git" for data in objects)
        found = [labels(data) for data in objects]
        assert found.count(frozenset({"secrets-in-git"})) == expected
        assert found.count(frozenset()) == len(objects) - expected


def loose(kind: bytes, body: bytes) -> bytes:
    return zlib.compress(b"%s %d\0" % (kind, len(body)) + body)


def test_names_and_messages_are_looked_at_too() -> None:
    tree = b"100644 " + TOKEN + b"\0" + bytes(range(20))
    assert labels(loose(b"tree", tree)) == {"secrets-in-git"}
    assert labels(loose(b"commit", b"tree 0\n\nuse " + TOKEN)) == {"secrets-in-git"}
    assert labels(loose(b"blob", b"a" * 3_000_000 + b"\n" + TOKEN)) == {"secrets-in-git"}
    assert labels(loose(b"blob", TOKEN.decode().encode("utf-16-le"))) == {"secrets-in-git"}


def test_an_archive_in_an_object_is_looked_into(tmp_path: Path) -> None:
    body = zlib.compress(TOKEN)  # not an archive by itself
    assert labels(loose(b"blob", body)) == frozenset()
    import gzip

    (tmp_path / "r").mkdir()
    git(tmp_path / "r", "init", "-q")
    (tmp_path / "r" / "a.gz").write_bytes(gzip.compress(b"x " + TOKEN))
    git(tmp_path / "r", "add", ".")
    git(tmp_path / "r", "commit", "-qm", "m")
    assert labels(loose(b"blob", gzip.compress(TOKEN))) == {"secrets-in-git"}
    assert labels(git(tmp_path / "r", *PACKED["offsets"], data=b"")) == {"secrets-in-git"}


def test_what_is_compressed_otherwise_is_no_object() -> None:
    for data in (zlib.compress(b"hello"), b"x\x9c", b"x\x9cgarbage", b"PACK it\n", b"# v2\n"):
        assert containers.kind_of(data) == ""


def test_bombs_are_given_up_on(monkeypatch: pytest.MonkeyPatch, leaking: Path) -> None:
    bomb = zlib.compress(b"blob 9\0" + bytes(200 << 20), 9)
    monkeypatch.setattr(containers, "MAX_GIT", 64 << 20)
    assert labels(bomb) == {"unreadable-git"}
    data = git(leaking, *PACKED["hashes"], data=b"")
    monkeypatch.setattr(git_objects, "MAX_NAMED", 10)
    assert labels(data) == {"unreadable-git"}
    monkeypatch.setattr(git_objects, "MAX_OBJECT", 100)
    assert labels(git(leaking, *PACKED["offsets"], data=b"")) == {"unreadable-git"}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**9), st.sampled_from(["offsets", "hashes", "bundle"]))
def test_hostile_packs_end_in_a_label(leaking: Path, seed: int, how: str) -> None:
    rng = random.Random(seed)
    data = bytearray(git(leaking, *PACKED[how], data=b""))
    for _ in range(rng.randrange(1, 8)):
        at = rng.randrange(len(data))
        data[at : at + rng.randrange(8)] = rng.randbytes(rng.randrange(8))
    if rng.random() < 0.3:
        del data[rng.randrange(len(data)) :]
    labels(bytes(data))


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=80))
def test_hostile_differences_are_refused_or_applied(base: bytes, delta: bytes) -> None:
    try:
        made, spans = git_objects._apply(base, bytes([len(base) & 0x7F, 0x7F]) + delta)
    except git_objects.DamagedError:
        return
    assert len(made) <= git_objects.MAX_OBJECT
    assert all(0 <= low <= high for low, high in spans)
