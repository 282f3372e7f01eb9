"""Archives and documents in a mount: served where nothing in them is secret, refused where not."""

import contextlib
import gzip
import json
import os
import shutil
import subprocess
import zipfile
import zlib
from pathlib import Path

import pytest
from driving import ENV, TOKEN, Grantfs, error_of


@pytest.fixture
def archives(source: Path) -> Path:
    with zipfile.ZipFile(source / "clean.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.txt", "nothing\n" * 100)
    with zipfile.ZipFile(source / "secret.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("app/.env", ENV)
    (source / "log.gz").write_bytes(gzip.compress(b"x\n" + ENV))
    return source


def test_an_archive_with_a_secret_is_not_read_one_without_is(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    assert (proj / "clean.zip").read_bytes() == (archives / "clean.zip").read_bytes()
    for name in ("secret.zip", "log.gz"):
        assert error_of((proj / name).read_bytes) == "EACCES"
        assert error_of(lambda n=name: os.open(proj / n, os.O_RDWR)) == "EACCES"  # type: ignore[misc]
        assert error_of(lambda n=name: shutil.copy(proj / n, proj / "copy")) == "EACCES"  # type: ignore[misc]
        assert error_of(lambda n=name: os.truncate(proj / n, 20)) == "EACCES"  # type: ignore[misc]
        with (proj / name).open("wb"):  # writing over it shows nothing
            pass
    refused = [one for one in grantfs.events("--event", "refuse") if one["path"] == "proj/log.gz"]
    assert refused
    assert "secrets-in-containers" in json.dumps(refused)
    assert TOKEN.decode() not in json.dumps(grantfs.events())


def test_an_archive_that_gets_a_secret_is_refused_from_then_on(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    with (proj / "clean.zip").open("rb") as opened:
        assert opened.read(2) == b"PK"
        shutil.copy(archives / "secret.zip", archives / "clean.zip")
        assert error_of((proj / "clean.zip").read_bytes) == "EACCES"
        assert error_of(lambda: os.pread(opened.fileno(), 10, 1 << 20)) in ("EACCES", "")


def test_renaming_and_deleting_one_shows_nothing_and_works(
    grantfs: Grantfs, archives: Path
) -> None:
    proj = grantfs.up(archives) / "proj"
    os.rename(proj / "secret.zip", proj / "moved.txt")
    assert error_of((proj / "moved.txt").read_bytes) == "EACCES"
    os.unlink(proj / "log.gz")
    assert grantfs.status() == {"proj/moved.txt": "renamed", "proj/log.gz": "deleted"}
    grantfs.ask("commit", "-y")
    assert (archives / "moved.txt").read_bytes().startswith(b"PK")


def git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    settings = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*")
    return subprocess.run(["git", *settings, *arguments], cwd=folder, capture_output=True)


@pytest.mark.parametrize("packed", [False, True])
def test_what_git_keeps_of_a_secret_is_not_read(
    grantfs: Grantfs, source: Path, packed: bool
) -> None:
    """A secret that was taken out of a file is in the history still."""
    for name, body in (("clean", b"a\n"), ("leak", ENV)):
        repo = source / name
        repo.mkdir()
        git(repo, "init", "-q")
        for number, text in enumerate((body, b"b\n")):
            (repo / "file").write_bytes(text)
            git(repo, "add", ".")
            assert git(repo, "commit", "-qm", str(number)).returncode == 0
        if packed:
            assert git(repo, "gc", "-q").returncode == 0
    proj = grantfs.up(source) / "proj"
    assert b"-a\n" in git(proj / "clean", "log", "-p").stdout
    (proj / "clean" / "file").write_bytes(b"c\n")
    assert git(proj / "clean", "commit", "-qam", "by the agent").returncode == 0
    assert git(proj / "clean", "log", "--oneline").stdout.count(b"\n") == 3
    assert git(proj / "clean", "fsck", "--full").returncode == 0
    told = git(proj / "leak", "log", "-p")
    assert told.returncode != 0
    assert TOKEN not in told.stdout + told.stderr
    everything = b"".join(
        path.read_bytes() if error_of(path.read_bytes) == "" else b""
        for path in (proj / "leak" / ".git").rglob("*")
        if path.is_file()
    )
    assert everything
    for start in range(len(everything)):
        if everything[start] == 0x78:
            with contextlib.suppress(zlib.error):
                assert TOKEN not in zlib.decompressobj().decompress(everything[start:], 4096)
    refused = [one for one in grantfs.events("--event", "refuse") if ".git" in one["path"]]
    assert "secrets-in-git" in json.dumps(refused)


def test_what_packs_placeholders_is_decided_by_the_user(grantfs: Grantfs, source: Path) -> None:
    """`git add` of a masked file makes an object of its placeholders, which nothing can undo; and
    references land with all of their objects or not at all."""
    repo = source / "repo"
    repo.mkdir()
    git(repo, "init", "-q")
    (repo / "notes").write_bytes(b"plain\n")
    git(repo, "add", ".")
    assert git(repo, "commit", "-qm", "first").returncode == 0
    (repo / ".env").write_bytes(ENV)
    before = git(repo, "rev-parse", "HEAD").stdout
    mounted = grantfs.up(source) / "proj" / "repo"
    (mounted / "notes").write_bytes(b"changed\n")
    with zipfile.ZipFile(mounted / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(mounted / ".env", "env")
    git(mounted, "add", ".env", "notes")
    assert git(mounted, "commit", "-qm", "second").returncode == 0
    flags = {one["path"]: one["flags"] for one in grantfs.ask("status")["changes"]}
    packed = {path for path, found in flags.items() if "placeholder-packed" in found}
    assert "proj/repo/all.zip" in packed
    assert len(packed) == 2
    done = grantfs.ask("commit", "-y", code=3)
    assert "proj/repo/notes" in done["applied"]
    assert not [path for path in done["applied"] if "/.git/" in path]
    assert set(done["undecided"]) == packed
    assert git(repo, "rev-parse", "HEAD").stdout == before
    assert git(repo, "fsck", "--full").returncode == 0
    assert not (repo / "all.zip").exists()
    grantfs.ask("commit", "-y", "--placeholders", "keep", "proj/repo")
    assert git(repo, "rev-parse", "HEAD").stdout != before
    assert git(repo, "fsck", "--full").returncode == 0
    assert (repo / "all.zip").exists()
