"""Fixtures for real mounts: a fresh `grantfs` for each test, and users to be.

A `conftest` of each folder of tests that mount takes them in."""

import contextlib
import fcntl
import itertools
import os
import pwd
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from driving import ENV, SCRIPT, Grantfs, User, driving, homes, mounts, myself

DEFAULT_SECONDS = 120.0
"""Timeout of a test where neither it nor the configuration says another."""

_users = itertools.count()


@pytest.fixture(scope="session", autouse=True)
def nothing_left() -> Iterator[None]:
    """The run leaves no mount of its own."""
    yield
    left = [point for home in homes for point in mounts(home.parent)]
    assert not left, f"still mounted: {left}"


@pytest.fixture(scope="session")
def fuse() -> None:
    """What every mount needs; skipped, visibly, where the machine lacks it."""
    if not SCRIPT.exists():
        pytest.fail(f"{SCRIPT} is missing: the project is not installed in this environment")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("/dev/fuse cannot be used here")


def _seconds(request: pytest.FixtureRequest) -> float:
    """A little less than what the test has, so that a hang ends before it is cut off."""
    marker = request.node.get_closest_marker("timeout")
    total = float(marker.args[0]) if marker else float(request.config.getini("timeout") or 120)
    return max(total - 15, 5)


@pytest.fixture
def grantfs(request: pytest.FixtureRequest, fuse: None) -> Iterator[Grantfs]:
    """The command line with a GRANTFS_HOME of its own."""
    with driving(_seconds(request)) as made:
        yield made


@pytest.fixture
def source(grantfs: Grantfs) -> Path:
    """A small folder to grant: a file with secrets, plain ones, a folder, a link, a program."""
    return fill(grantfs.home.parent / "proj")


def fill(folder: Path) -> Path:
    """Make the small folder."""
    (folder / "src").mkdir(parents=True)
    (folder / ".env").write_bytes(ENV)
    (folder / "README.md").write_text("# proj\n\none\ntwo\nthree\n")
    (folder / "src" / "main.py").write_text("import sys\n\nprint(sys.argv)\n")
    (folder / "src" / "tool.sh").write_text("#!/bin/sh\necho tool works\n")
    (folder / "src" / "tool.sh").chmod(0o755)
    (folder / "link").symlink_to("src/main.py")
    return folder


# -- another user --------------------------------------------------------------------------


@contextlib.contextmanager
def fuse_open_to_all() -> Iterator[None]:
    """Let every user open /dev/fuse, and put its mode back.

    Of several runs at a time on one machine the first notes the mode, and the last restores it.
    """
    path = Path(tempfile.gettempdir()) / "grantfs-test-dev-fuse"
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)

    def alone() -> bool:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    try:
        if alone():
            os.pwrite(fd, b"%04o" % (os.stat("/dev/fuse").st_mode & 0o7777), 0)
        fcntl.flock(fd, fcntl.LOCK_SH)
        os.chmod("/dev/fuse", 0o666)
        yield
        if alone():
            os.chmod("/dev/fuse", int(os.pread(fd, 4, 0), 8))
            path.unlink()
    finally:
        os.close(fd)


@pytest.fixture(scope="session")
def someone(fuse: None) -> Iterator[User]:
    """An ordinary user who can open /dev/fuse: a throw-away one for root, else who runs this."""
    if os.getuid():
        yield myself()
        return
    # Each folder's conftest has a fixture of its own of this, and they live side by side.
    name = f"gfstest{os.getpid()}x{next(_users)}"
    subprocess.run(
        ["useradd", "--no-create-home", "--shell", "/bin/sh", name], check=True, capture_output=True
    )
    try:
        entry = pwd.getpwnam(name)
        user = User(entry.pw_uid, entry.pw_gid, name)
        call = [SCRIPT, "--version"]
        try:
            done = subprocess.run(call, capture_output=True, check=False, cwd="/", **user.popen)
        except PermissionError as error:
            pytest.skip(f"another user cannot run {SCRIPT}: {error.strerror}; use another PYTHON")
        if done.returncode:
            pytest.skip(f"another user cannot run {SCRIPT}: {done.stderr.decode().strip()[-200:]}")
        with fuse_open_to_all():
            yield user
    finally:
        subprocess.run(["userdel", name], check=True, capture_output=True)


@pytest.fixture
def as_someone(request: pytest.FixtureRequest, someone: User) -> Iterator[Grantfs]:
    """The command line of an ordinary user."""
    with driving(_seconds(request), someone) as made:
        yield made


@pytest.fixture(scope="session")
def root(fuse: None) -> None:
    """For what only root can set up: private mount namespaces, small file systems."""
    if os.getuid():
        pytest.skip("needs root")


@pytest.fixture
def small_disk(grantfs: Grantfs, root: None) -> Iterator[Path]:
    """The GRANTFS_HOME on a file system of its own, of 8 MiB; how to fill it is the test's."""
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m,mode=700", "none", grantfs.home], check=True
    )
    yield grantfs.home
    grantfs.run("down", "--all", code=None)
    subprocess.run(["umount", grantfs.home], check=True)
