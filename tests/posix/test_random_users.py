"""Random calls of several users on a root's mount and on a plain folder: who may do what, and who
owns what comes of it, is the same."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import test_random_calls as calls
from driving import Grantfs
from test_random_calls import Twins

USERS = {
    "root": (0, 0, ()),
    "ann": (20001, 20001, (20001, 20010)),
    "ben": (20002, 20002, (20002, 20010)),
    "cat": (20003, 20010, ()),
}
"""User and group numbers, and the further groups; nobody has to exist."""

OWNERS = (-1, 0, 20001, 20002, 20010)
MODES = (0o644, 0o600, 0o666, 0o4755, 0o2755, 0o6777, 0o000)
FOLDER_MODES = (0o755, 0o777, 0o1777, 0o2777, 0o3775, 0o770, 0o500, 0o711)


@contextmanager
def acting(user: str) -> Iterator[None]:
    """This process makes file system calls as *user*."""
    uid, gid, groups = USERS[user]
    before = os.getgroups()
    os.setgroups(list(groups))
    os.setegid(gid)
    os.seteuid(uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)
        os.setgroups(before)


class Users(Twins):
    """Each call is made by one of the users, under one of some umasks."""

    def both(self, what: str, call: Callable[[str, int], object]) -> list[object]:
        user, umask = self.rng.choice(list(USERS)), self.rng.choice((0o022, 0, 0o077))
        before = os.umask(umask)
        try:
            with acting(user):
                return super().both(f"{user} (umask {umask:o}): {what}", call)
        finally:
            os.umask(before)

    def chmod(self) -> None:
        path = self.any()
        real = f"{self.roots[1]}/{path}"
        mode = self.rng.choice(FOLDER_MODES if os.path.isdir(real) else MODES)
        if not os.path.islink(real):
            self.same(f"chmod {path} {mode:o}", lambda r, _s: os.chmod(f"{r}/{path}", mode))

    def mkdir(self) -> None:
        path, mode = self.fresh(), self.rng.choice(FOLDER_MODES)
        self.same(f"mkdir {path} {mode:o}", lambda r, _s: os.mkdir(f"{r}/{path}", mode))

    def chown(self) -> None:
        path, uid, gid = self.any(), self.rng.choice(OWNERS), self.rng.choice(OWNERS)
        self.same(f"chown {path} {uid} {gid}", lambda r, _s: os.lchown(f"{r}/{path}", uid, gid))

    def access(self) -> None:
        path, mode = self.any(), self.rng.choice((os.R_OK, os.W_OK, os.X_OK))
        self.same(
            f"access {path} {mode}",
            lambda r, _s: os.access(f"{r}/{path}", mode, effective_ids=True),
        )

    def rmtree(self) -> None:
        """What is gone when it stops at an error depends on the order of the listing."""


CALLS = calls.CALLS | {"chmod": 12, "chown": 12, "access": 6, "mkdir": 9, "utime": 4}


def rounds(grantfs: Grantfs, monkeypatch: pytest.MonkeyPatch, seed: int, steps: int) -> None:
    if os.getuid():
        pytest.skip("only root serves other users")
    monkeypatch.setattr(calls, "CALLS", CALLS)
    monkeypatch.setattr(calls, "Twins", Users)
    base = grantfs.home.parent
    base.chmod(0o755)
    real = calls.fill

    def fill(root: os.PathLike[str]) -> None:
        real(root)
        os.chmod(root, 0o777)
        owners = list(USERS.values())
        for number, (folder, folders, files) in enumerate(sorted(os.walk(root))):
            os.chmod(folder, FOLDER_MODES[number % 5])
            for name in sorted(folders + files):
                uid, gid, _ = owners[(number + len(name)) % 4]
                os.lchown(os.path.join(folder, name), uid, gid)

    monkeypatch.setattr(calls, "fill", fill)
    calls.rounds(grantfs, seed, 2, steps, "--agent-user", "any")


@pytest.mark.parametrize("seed", range(3))
def test_hundreds_of_calls_of_several_users(
    grantfs: Grantfs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rounds(grantfs, monkeypatch, seed, 200)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("seed", range(100, 130))
def test_thousands_of_calls_of_several_users(
    grantfs: Grantfs, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    rounds(grantfs, monkeypatch, seed, 700)
