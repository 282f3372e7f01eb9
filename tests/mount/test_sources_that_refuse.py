"""A commit into sources that are full, read-only or closed: whole, or every source as it was."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import Grantfs, User, tree


@pytest.fixture
def two(grantfs: Grantfs, root: None, source: Path) -> Iterator[tuple[Path, Path, Path]]:
    """A mount of two sources on two devices, the second of 4 MiB, and a change in each."""
    small = source.parent / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=755", "none", small], check=True)
    try:
        (source / "a").write_bytes(b"old\n")
        (small / "b").write_bytes(b"old\n")
        mount = grantfs.up(source, small)
        (mount / "proj" / "a").write_bytes(b"new\n")
        (mount / "proj" / "made").mkdir()
        (mount / "proj" / "made" / "c").write_bytes(b"new\n")
        (mount / "small" / "b").write_bytes(b"new\n")
        yield mount, source, small
        grantfs.run("down", code=None)
    finally:
        subprocess.run(["umount", small], check=True)


def unchanged(grantfs: Grantfs, source: Path, small: Path, why: str) -> None:
    before = tree(source), tree(small)
    staged = grantfs.status()
    refused = grantfs.run("commit", "-y", code=1)
    assert why in refused.err
    assert "nothing was committed" in refused.err
    assert (tree(source), tree(small)) == before
    assert grantfs.status() == staged
    assert grantfs.ask("log") == []


def test_a_disk_that_is_full_half_way(grantfs: Grantfs, two: tuple[Path, Path, Path]) -> None:
    mount, source, small = two
    for number in range(6):
        (mount / "small" / f"large{number}").write_bytes(bytes([number + 1]) * (1 << 20))
    unchanged(grantfs, source, small, "No space left on device")
    subprocess.run(["mount", "-o", "remount,size=16m", small], check=True)
    assert grantfs.ask("commit", "-y")["remaining"] == []
    assert (small / "large5").read_bytes() == b"\6" * (1 << 20)
    assert (source / "made" / "c").read_bytes() == b"new\n"
    # What went is kept elsewhere: an undo needs no room in the source.
    grantfs.ask("undo")
    assert os.listdir(small) == ["b"]
    assert (small / "b").read_bytes() == b"old\n"
    assert not (source / "made").exists()


def test_a_source_that_turns_read_only(grantfs: Grantfs, two: tuple[Path, Path, Path]) -> None:
    _mount, source, small = two
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    unchanged(grantfs, source, small, "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    done = grantfs.ask("commit", "-y")
    assert (done["remaining"], len(done["applied"])) == ([], 3)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    after = tree(source), tree(small)
    refused = grantfs.run("undo", code=1)
    assert "Read-only file system" in refused.error
    assert (tree(source), tree(small)) == after
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)
    grantfs.ask("undo")
    assert (small / "b").read_bytes() == (source / "a").read_bytes() == b"old\n"


def test_one_of_two_sources_is_committed_by_name(
    grantfs: Grantfs, two: tuple[Path, Path, Path]
) -> None:
    _mount, source, small = two
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    assert sorted(grantfs.ask("commit", "-y", "proj")["applied"]) == ["proj/a", "proj/made/c"]
    assert (source / "a").read_bytes() == b"new\n"
    assert grantfs.status() == {"small/b": "modified"}


def test_files_and_folders_without_write_permission(as_someone: Grantfs, someone: User) -> None:
    folder = as_someone.home.parent / "proj"
    closed = folder / "closed"
    closed.mkdir(parents=True)
    (folder / "readonly").write_bytes(b"old\n")
    (folder / "readonly").chmod(0o444)
    (folder / "one").write_bytes(b"old\n")
    os.link(folder / "one", folder / "two")
    (closed / "f").write_bytes(b"old\n")
    (closed / "f").chmod(0o644)
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, someone.uid, someone.gid)
    closed.chmod(0o555)
    before = tree(folder)
    proj = as_someone.up(folder) / "proj"

    def sh(script: str) -> None:
        subprocess.run(
            ["sh", "-ec", f'cd "$0"; {script}', str(proj)],
            check=True, cwd="/", timeout=60, **someone.popen,
        )  # fmt: skip

    sh("echo new > closed/f; echo both > one; chmod u+w readonly; echo new > readonly")
    sh("chmod 444 readonly")
    # A plain folder would let the file in the closed one be written to; beside it nothing can be
    # made that could take its place, so it is refused, and the rest with it.
    refused = as_someone.run("commit", "-y", code=1)
    assert "proj/closed/f stays staged: Permission denied; nothing was committed" in refused.err
    assert tree(folder) == before
    done = as_someone.ask("commit", "-y", "proj/one", "proj/readonly")
    assert done["remaining"] == ["proj/closed/f"]
    after = tree(folder)
    assert after["closed/f"] == before["closed/f"]
    assert after["readonly"] == ("-r--r--r--", b"new\n")
    assert after["one"] == after["two"] == ("-rw-r--r--", b"both\n")
    assert (folder / "one").stat().st_ino == (folder / "two").stat().st_ino
    as_someone.ask("undo")
    assert tree(folder) == before
    assert (folder / "one").stat().st_ino == (folder / "two").stat().st_ino
    closed.chmod(0o755)
    as_someone.ask("commit", "-y", "proj/closed/f")
    assert (closed / "f").read_bytes() == b"new\n"
