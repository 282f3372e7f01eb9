"""When a grant ends, by whatever way, its files are gone, and staged work is not (promise 7)."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from driving import ENV, Grantfs, error_of, tree, wait_until

DEAD = ("ESTALE", "EACCES")

MAPPER = """
import mmap, os, sys
fd = os.open(sys.argv[1], os.O_RDWR if "write" in sys.argv[2:] else os.O_RDONLY)
protection = mmap.PROT_READ | (mmap.PROT_WRITE if "write" in sys.argv[2:] else 0)
mapped = mmap.mmap(fd, 0, prot=protection)
mapped[0]
if "write" in sys.argv[2:]:
    mapped[0:5] = b"DIRTY"
print("ready", flush=True)
sys.stdin.readline()
mapped[0]
print("still readable", flush=True)
"""


@contextlib.contextmanager
def mapping(path: Path, *words: str) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has mapped (and with "write" dirtied) a file, and looks again when told."""
    child = subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(path), *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert child.stdout is not None
    assert child.stdin is not None
    try:
        assert child.stdout.readline() == b"ready\n"
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        child.stdout.close()


def looks_again(child: "subprocess.Popen[bytes]") -> int:
    """Let the process look; how it ended."""
    child.communicate(b"\n", timeout=30)
    return child.returncode


def revoke(grantfs: Grantfs, mount: Path) -> None:
    (grant,) = grantfs.ask("grants")
    (ended,) = grantfs.ask("revoke", grant["id"])
    assert ended["id"] == grant["id"]
    assert ended["revoked_at"].endswith("Z")


def revoke_by_path(grantfs: Grantfs, mount: Path) -> None:
    grantfs.run("revoke", mount / "proj")


def revoke_all(grantfs: Grantfs, mount: Path) -> None:
    assert len(grantfs.ask("revoke", "--all")) == 1


def take_down(grantfs: Grantfs, mount: Path) -> None:
    grantfs.run("down")


def expire(grantfs: Grantfs, mount: Path) -> None:
    """Nothing is called: the daemon ends the grant by itself."""
    (grant,) = grantfs.ask("grants")
    grantfs.run("renew", grant["id"], "--for", "1s")
    wait_until(lambda: error_of(lambda: os.stat(mount / "proj")) == "ENOENT", "expiry")
    wait_until(
        lambda: any(event["event"] == "expire" for event in grantfs.events()), "expiry on record"
    )


ENDINGS: dict[str, Callable[[Grantfs, Path], None]] = {
    "revoke": revoke,
    "revoke by path": revoke_by_path,
    "revoke --all": revoke_all,
    "expiry": expire,
    "down": take_down,
}


@pytest.mark.parametrize("how", ENDINGS)
def test_names_handles_pages_and_maps_are_gone_after(
    grantfs: Grantfs, source: Path, how: str
) -> None:
    (source / "large").write_bytes(os.urandom(100 * 4096))
    mount = grantfs.up(source)
    proj = mount / "proj"
    folder = os.open(proj / "src", os.O_RDONLY | os.O_DIRECTORY)
    reading = os.open(proj / ".env", os.O_RDONLY)
    cached = os.open(proj / "large", os.O_RDONLY)
    writing = os.open(proj / "README.md", os.O_RDWR)
    try:
        assert os.read(reading, 10) == ENV[:10]
        assert len(os.pread(cached, 100 * 4096, 0)) == 100 * 4096
        os.write(writing, b"staged")
        os.listdir(folder)
        with mapping(proj / "large") as child:
            ENDINGS[how](grantfs, mount)
            assert looks_again(child) == -signal.SIGBUS
        if how == "down":
            assert not (mount / "proj").exists()
        else:
            assert os.listdir(mount) == [".grantfs"]
        assert error_of(lambda: os.stat(proj / ".env")) in ("ENOENT", "ENOTCONN")
        dead = (*DEAD, "ENOTCONN") if how == "down" else DEAD
        assert error_of(lambda: os.read(reading, 10)) in dead
        assert error_of(lambda: os.pread(cached, 4096, 4096)) in dead
        assert error_of(lambda: os.pread(writing, 4, 0)) in dead
        assert error_of(lambda: os.pwrite(writing, b"late", 0)) in dead
        for use in (
            lambda: os.open("main.py", os.O_RDONLY, dir_fd=folder),
            lambda: os.stat("main.py", dir_fd=folder),
            lambda: os.listdir(folder),
            lambda: os.open("new", os.O_CREAT | os.O_WRONLY, dir_fd=folder),
        ):
            assert error_of(use) in (*dead, "ENOENT")
    finally:
        for fd in (folder, reading, cached, writing):
            with contextlib.suppress(OSError):
                os.close(fd)


@pytest.mark.parametrize("how", ["revoke", "expiry", "down"])
def test_staged_work_survives_the_end(grantfs: Grantfs, source: Path, how: str) -> None:
    before = tree(source, identity=True)
    (source / "mapped").write_bytes(b"clean" + bytes(4091))
    mount = grantfs.up(source)
    proj = mount / "proj"
    (proj / "new.txt").write_text("new\n")
    with (proj / ".env").open("ab") as file:
        file.write(b"MORE=1\n")
    with mapping(proj / "mapped", "write") as child:
        ENDINGS[how](grantfs, mount)
        assert looks_again(child) == -signal.SIGBUS
    if how == "down":
        grantfs.up()
    else:
        done = grantfs.run("commit", "-y", code=4)
        assert "no live write grant" in done.error
        assert {k: v for k, v in tree(source, identity=True).items() if k in before and k != "."} \
            == {k: v for k, v in before.items() if k != "."}  # fmt: skip
        staged = grantfs.status()
        assert staged["proj/new.txt"] == "added"
        assert staged["proj/.env"] == "modified"
        grantfs.run("grant", source)
    assert grantfs.status() == {
        "proj/.env": "modified",
        "proj/mapped": "modified",
        "proj/new.txt": "added",
    }
    # What was dirty in the map when the grant ended was written back.
    assert (proj / "mapped").read_bytes()[:5] == b"DIRTY"
    assert grantfs.ask("commit", "-y")["remaining"] == []
    assert (source / "new.txt").read_text() == "new\n"
    assert (source / "mapped").read_bytes()[:5] == b"DIRTY"
    assert (source / ".env").read_bytes() == ENV + b"MORE=1\n"


def test_a_new_grant_does_not_revive_old_handles(grantfs: Grantfs, source: Path) -> None:
    proj = grantfs.up(source) / "proj"
    reading = os.open(proj / "README.md", os.O_RDONLY)
    writing = os.open(proj / "src" / "main.py", os.O_WRONLY)
    try:
        grantfs.run("revoke", "--all")
        grantfs.run("grant", source)
        assert error_of(lambda: os.read(reading, 1)) in DEAD
        assert error_of(lambda: os.write(writing, b"x")) in DEAD
        assert (proj / "README.md").read_text().startswith("# proj")
    finally:
        os.close(reading)
        with contextlib.suppress(OSError):
            os.close(writing)
    assert grantfs.status() == {}


def test_one_of_two_grants_ends_and_the_other_goes_on(grantfs: Grantfs, source: Path) -> None:
    other = grantfs.home.parent / "other"
    other.mkdir()
    (other / "file").write_text("file\n")
    mount = grantfs.up(source, other)
    with (mount / "other" / "file").open("rb") as kept:
        grantfs.run("revoke", source)
        assert sorted(os.listdir(mount)) == [".grantfs", "other"]
        assert kept.read() == b"file\n"
    listed = {grant["mounted_as"]: grant["status"] for grant in grantfs.ask("grants", "--all")}
    assert listed == {"proj": "revoked", "other": "live"}
    grantfs.run("revoke", source, code=5)


def test_a_write_grant_that_ends_beside_a_read_grant_leaves_reading(
    grantfs: Grantfs, source: Path
) -> None:
    proj = grantfs.up("--read", source) / "proj"
    (written,) = grantfs.ask("grant", source)
    (proj / "new.txt").write_text("new\n")
    with (proj / "README.md").open("r+b") as open_file:
        grantfs.run("revoke", written["id"])
        assert error_of(lambda: os.write(open_file.fileno(), b"x")) in ("EROFS", *DEAD)
        assert (proj / "README.md").read_text().startswith("# proj")
    assert error_of(lambda: (proj / "more.txt").write_text("x")) == "EROFS"


def test_many_readers_while_the_grant_ends_get_the_file_or_an_error(
    grantfs: Grantfs, source: Path
) -> None:
    mount = grantfs.up(source)
    script = 'echo ready; while cat "$0" >/dev/null 2>&1; do :; done'
    readers = [
        subprocess.Popen(["sh", "-c", script, mount / "proj" / "README.md"], stdout=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == b"ready\n"
        grantfs.run("revoke", "--all")
        for reader in readers:
            assert reader.wait(timeout=30) == 0
    finally:
        for reader in readers:
            reader.kill()
            reader.wait()
            assert reader.stdout is not None
            reader.stdout.close()
    assert errno.__dict__[error_of(lambda: os.stat(mount / "proj"))] == errno.ENOENT
