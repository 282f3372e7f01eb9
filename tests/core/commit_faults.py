"""Something happens at one call of a commit: `Faults` counts the calls that look at or change a
source or the journal, and acts before one of them."""

import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

from commit_bench import Bench

from gateway.commit import batch, metadata, steps
from gateway.commit.history import CommitStore
from gateway.errors import GrantfsError
from vfs.stage.store import Store

CHANGING = frozenset(
    {
        "chmod", "chown", "fsync", "link", "mkdir", "removexattr", "rmdir", "setxattr", "symlink",
        "truncate", "unlink", "utime", "write",
    }
)  # fmt: skip
LOOKING = frozenset({"getxattr", "listdir", "listxattr", "open", "stat"})


class _Os:
    """The module `os`, with a hook before some of its functions."""

    def __init__(self, hook: Callable[[str], None], hooked: frozenset[str]) -> None:
        self._hook = hook
        self._hooked = hooked

    def __getattr__(self, name: str) -> Any:
        found = getattr(os, name)
        if name not in self._hooked:
            return found

        def call(*args: Any, **kwargs: Any) -> Any:
            self._hook(name)
            return found(*args, **kwargs)

        return call


class Faults:
    """Counts; before call number *at* (from 0) calls *act* with the call's name."""

    def __init__(
        self, at: int = -1, act: Callable[[str], None] = lambda _name: None, *, look: bool = False
    ) -> None:
        self._at = at
        self._act = act
        self._hooked = CHANGING | LOOKING if look else CHANGING
        self.calls: list[str] = []

    def _hook(self, name: str) -> None:
        number = len(self.calls)
        self.calls.append(name)
        if number == self._at:
            self._act(name)

    def _wrap(self, owner: Any, name: str) -> Any:
        real = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            self._hook(name)
            return real(*args, **kwargs)

        return mock.patch.object(owner, name, call)

    @contextmanager
    def at_work(self) -> Iterator["Faults"]:
        """While this is open, calls count."""
        patches = [mock.patch.object(one, "os", _Os(self._hook, self._hooked))
                   for one in (steps, batch, metadata)]  # fmt: skip
        patches += [self._wrap(steps, "rename"), self._wrap(batch, "_sync_file_system")]
        patches += [
            self._wrap(CommitStore, name)
            for name in ("begin", "intend", "describe", "finish", "note_landed")
        ]
        patches += [self._wrap(Store, name) for name in ("note_landed", "sync")]
        for patch in patches:
            patch.start()
        try:
            yield self
        finally:
            for patch in reversed(patches):
                patch.stop()


def die_at(bench: Bench, at: int, work: Callable[[], object]) -> bool:
    """Have another process open the closed workspace, do *work*, and be killed before call *at*;
    then open it again. False if that call was not made."""
    child = os.fork()
    if child == 0:
        try:
            bench.reopen()
            with Faults(at, lambda _name: os.kill(os.getpid(), signal.SIGKILL)).at_work():
                work()
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(0)
    _pid, status = os.waitpid(child, 0)
    bench.reopen()
    return os.WIFSIGNALED(status)


def refuse(number: int) -> Callable[[str], None]:
    """An act: the call fails with this errno, one of the journal's as its database does."""

    def act(name: str) -> None:
        if name in ("begin", "intend", "describe", "finish"):
            raise GrantfsError(f"cannot record the commit: {os.strerror(number)}")
        raise OSError(number, os.strerror(number))

    return act
