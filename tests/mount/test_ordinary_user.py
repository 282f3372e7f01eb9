"""The whole way as an ordinary Unix user, who mounts and unmounts through fusermount3."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from driving import (
    ENV,
    TOKEN,
    Grantfs,
    User,
    alive,
    driving,
    error_of,
    mounts,
    myself,
    wait_until,
)
from mount_fixtures import fill

from gateway.daemon import mounting
from gateway.errors import GrantfsError


@pytest.fixture
def source(as_someone: Grantfs, someone: User) -> Path:
    folder = fill(as_someone.home.parent / "proj")
    if someone.uid != os.getuid():
        for path in [folder, *folder.rglob("*")]:
            os.chown(path, someone.uid, someone.gid, follow_symlinks=False)
    return folder


def sh(someone: User, script: str, cwd: Path) -> bytes:
    """A program of that user's: a mount is its owner's alone, root included."""
    # The shell enters the folder itself: root could not.
    command = ["sh", "-ec", f'cd "$0"; {script}', str(cwd)]
    return subprocess.run(
        command, check=True, capture_output=True, cwd="/", timeout=60, **someone.popen
    ).stdout


def test_from_up_to_down(as_someone: Grantfs, someone: User, source: Path) -> None:
    mount = as_someone.up(source, "--name", "w")
    assert mounts(as_someone.home) == [str(mount)]
    pid = as_someone.pid()
    assert os.stat(f"/proc/{pid}").st_uid in (0, someone.uid)
    proj = mount / "proj"
    shown = sh(someone, "cat .env", proj)
    assert TOKEN not in shown
    assert len(shown) == len(ENV)
    assert sh(someone, "stat -c %u:%a README.md src/tool.sh .", proj).split() == [
        f"{someone.uid}:644".encode(),
        f"{someone.uid}:755".encode(),
        f"{someone.uid}:755".encode(),
    ]
    assert sh(someone, "src/tool.sh", proj) == b"tool works\n"
    sh(someone, "sed -i s/8080/9090/ .env; echo new > new", proj)
    sh(someone, "mkdir d; cp src/tool.sh d; chmod 700 d/tool.sh", proj)
    assert as_someone.status() == {
        "proj/.env": "modified", "proj/d/tool.sh": "added", "proj/new": "added",
    }  # fmt: skip
    assert b"+PORT=9090" in as_someone.run("diff").out
    assert (source / ".env").read_bytes() == ENV
    assert as_someone.ask("commit", "-y")["remaining"] == []
    assert (source / ".env").read_bytes() == ENV.replace(b"8080", b"9090")
    for name, mode in ((".env", 0o644), ("new", 0o644), ("d", 0o755), ("d/tool.sh", 0o700)):
        status = (source / name).stat()
        assert (status.st_uid, status.st_gid) == (someone.uid, someone.gid), name
        assert status.st_mode & 0o777 == mode, name
    as_someone.run("revoke", "--all")
    assert sh(someone, "ls -A .", mount) == b".grantfs\n"
    as_someone.run("down")
    assert mounts(as_someone.home) == []
    assert as_someone.ask("audit", "verify")["ok"] is True
    actors = {event["actor"]["uid"] for event in as_someone.events() if event["actor"]}
    assert actors == {someone.uid}


def test_others_are_kept_out(as_someone: Grantfs, source: Path, root: None) -> None:
    """Of the mount root itself, since nothing else was asked for; of the socket, everybody."""
    mount = as_someone.up(source, "--name", "w")
    assert error_of(lambda: os.listdir(mount)) == "EACCES"
    nobody = {"user": 65534, "group": 65534, "extra_groups": []}
    look = ["test", "-e", as_someone.home / "run" / "w.sock"]
    assert subprocess.run(look, check=False, **nobody).returncode != 0
    # root reaches the socket's file, and is told no.
    as_someone.user, owner = myself(), as_someone.user
    for words in (("status",), ("commit", "-y"), ("revoke", "--all")):
        assert "another user" in as_someone.run(*words, code=4).error
    as_someone.user = owner


def test_a_crash_is_cleaned_up(as_someone: Grantfs, someone: User, source: Path) -> None:
    mount = as_someone.up(source)
    sh(someone, "echo new > new; mv README.md READ.me", mount / "proj")
    as_someone.kill()
    assert len(mounts(as_someone.home)) == 1
    as_someone.up()
    assert as_someone.status() == {"proj/READ.me": "renamed", "proj/new": "added"}
    assert sh(someone, "cat new", mount / "proj") == b"new\n"


def test_sigterm_unmounts_through_fusermount3(as_someone: Grantfs, source: Path) -> None:
    as_someone.up(source)
    pid = as_someone.pid()
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not alive(pid), "the daemon ends")
    assert mounts(as_someone.home) == []


def test_what_the_user_cannot_read_the_agent_cannot(
    as_someone: Grantfs, someone: User, source: Path, root: None
) -> None:
    closed = source / "closed"
    closed.write_text("root's\n")
    closed.chmod(0o600)
    os.chown(closed, 0, 0)
    mount = as_someone.up(source)
    script = "cat closed 2>&1 || true; echo x 2>&1 > closed || true; cat README.md"
    shown = sh(someone, f"({script}) 2>&1", mount / "proj")
    assert shown.count(b"Permission denied") == 2
    assert b"# proj" in shown
    assert closed.read_text() == "root's\n"
    done = as_someone.run("up", "/root", code=1)
    assert "cannot grant" in done.error


def test_a_user_with_neither_name_nor_home(root: None, fuse: None, someone: User) -> None:
    """As in a container that was started with a number for a user: fusermount3 refuses it."""
    nobody = User(54321, 54321, "")
    with driving(100, nobody) as made:
        source = made.home.parent / "proj"
        source.mkdir()
        os.chown(source, nobody.uid, nobody.gid)
        bare = {"USER": "", "LOGNAME": "", "LNAME": "", "USERNAME": ""}
        done = made.run("up", source, "--name", "w", env=bare, code=1)
        assert "/etc/passwd" in done.error
        assert not made.state("w").exists()


def test_what_fusermount3_says_is_passed_on(as_someone: Grantfs, source: Path, root: None) -> None:
    """Also of a new workspace, whose log goes with it when it cannot start."""
    if re.search(r"^user_allow_other", Path("/etc/fuse.conf").read_text(), re.MULTILINE):
        pytest.skip("this machine lets users open their mounts to others")
    done = as_someone.run("up", source, "--name", "w", "--agent-user", "any", code=1)
    assert "user_allow_other" in done.error
    assert not as_someone.state("w").exists()
    assert not (as_someone.home / "mnt" / "w").exists()


# -- a mount for another user --------------------------------------------------------------


def seen_as(user: User, code: str, *arguments: Path) -> str:
    """What a program of a user's prints; the name of the errno where it fails with one."""
    done = subprocess.run(
        [sys.executable, "-c", f"import errno, os, sys\ntry:\n {code}\nexcept OSError as error:\n"
         " print(errno.errorcode[error.errno])", *arguments],
        capture_output=True, text=True, check=True, cwd="/", timeout=60, **user.popen,
    )  # fmt: skip
    return done.stdout.strip()


@pytest.fixture
def roots(grantfs: Grantfs, root: None) -> Path:
    """A folder of root's, on a way that is open to all."""
    folder = fill(grantfs.home.parent / "proj")
    (folder / ".env").chmod(0o600)
    (folder / "inbox").mkdir()
    (folder / "inbox").chmod(0o777)
    for way in (grantfs.home.parent, grantfs.home):
        way.chmod(0o755)
    return folder


@pytest.fixture
def shared_mount(grantfs: Grantfs, roots: Path, someone: User) -> Path:
    """A mount of it for one other user."""
    return grantfs.up(roots, "--agent-user", someone.name, "--mount", grantfs.home / "shared")


def test_one_other_user_is_let_in_and_no_third_one(shared_mount: Path, someone: User) -> None:
    third = User(someone.uid + 1, someone.gid + 1, "")
    same_group = User(someone.uid + 2, someone.gid, "")
    readme = shared_mount / "proj" / "README.md"
    read = "print(open(sys.argv[1]).readline().strip())"
    assert seen_as(someone, read, readme) == "# proj"
    for user in (third, same_group):
        assert seen_as(user, read, readme) == "EACCES"
        assert seen_as(user, "print(os.listdir(sys.argv[1]))", shared_mount) == "EACCES"
        assert seen_as(user, "print(os.stat(sys.argv[1]))", readme) == "EACCES"
    # Modes count for the agent as they do outside.
    assert seen_as(someone, read, shared_mount / "proj" / ".env") == "EACCES"
    assert seen_as(someone, "open(sys.argv[1], 'w')", readme) == "EACCES"
    assert readme.read_text().startswith("# proj")


def test_what_the_other_user_makes_is_that_users(
    shared_mount: Path, someone: User, roots: Path, grantfs: Grantfs
) -> None:
    made = shared_mount / "proj" / "inbox" / "new"
    assert seen_as(someone, "open(sys.argv[1], 'w').write('mine')", made) == ""
    assert (made.stat().st_uid, made.stat().st_gid) == (someone.uid, someone.gid)
    grantfs.run("commit", "-y")
    status = (roots / "inbox" / "new").stat()
    assert (status.st_uid, status.st_gid) == (someone.uid, someone.gid)


def test_the_agent_of_another_user_has_no_say(
    shared_mount: Path, someone: User, grantfs: Grantfs
) -> None:
    """Neither state nor sockets are open to that user, root though its daemon runs as."""
    for name in ("state", "run"):
        shown = seen_as(someone, "print(os.listdir(sys.argv[1]))", grantfs.home / name)
        assert shown == "EACCES"


def test_a_user_that_there_is_not(grantfs: Grantfs, source: Path) -> None:
    done = grantfs.run("up", source, "--name", "w", "--agent-user", "nobody-of-that-name", code=1)
    assert "no user 'nobody-of-that-name'" in done.error
    assert not grantfs.state("w").exists()


def test_where_fusermount3_could_not_unmount_nothing_is_mounted(
    fuse: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Small images have no /etc/mtab: an ordinary user's mount would stay for ever."""
    monkeypatch.setattr(mounting, "MTAB", tmp_path / "mtab")
    monkeypatch.setattr(os, "getuid", lambda: 1)
    with pytest.raises(GrantfsError, match=r"sudo ln -s \.\./proc/self/mounts"):
        mounting.check_fuse("pyfuse3")
    (tmp_path / "mtab").touch()
    mounting.check_fuse("pyfuse3")
