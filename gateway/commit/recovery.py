"""After a crash in the middle of a commit: every source is as it was before, or has all of it."""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from gateway.commit.batch import PutBack, put_back, revert, sweep
from gateway.commit.history import CommitStore, PendingSource
from gateway.commit.steps import Hands
from vfs.source import Source

Opener = Callable[[PendingSource], Source]
"""Opens a source, a single file even if it is not there. Raises OSError."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What became of a commit that was cut short; `problem` says why it still waits, or what could
    not be put back; `put_back` what was, by the source's root."""

    commit: str
    landed: bool
    problem: str | None = None
    waits: bool = False
    put_back: tuple[tuple[bytes, PutBack], ...] = ()


def recover(history: CommitStore, landed: set[str], opener: Opener) -> list[Recovered]:
    """Finish or take back every pending commit; *landed* are those that the stage counts as made.

    One whose source is out of reach waits, and is tried again at the next call; the others are to
    be ended in the history once the stage knows what was put back.
    """
    return [_recover(history, commit, commit in landed, opener) for commit in history.pending()]


def _recover(history: CommitStore, commit: str, landed: bool, opener: Opener) -> Recovered:
    problem = None
    found: list[tuple[bytes, PutBack]] = []
    for one in history.journal(commit):
        try:
            source = open_for_commit(one, opener)
        except OSError as error:
            return Recovered(commit, landed, f"{os.fsdecode(one.root)}: {_why(error)}", waits=True)
        try:
            hands = Hands(source)
            failed = None if landed else revert(hands, one.steps)
            if not landed:
                found += [(one.root, back) for back in put_back(hands, one.steps)]
            sweep(hands, commit, one.folders)
            if failed is not None:
                problem = f"{os.fsdecode(one.root)}: {_why(failed)}"
        except OSError as error:
            return Recovered(commit, landed, f"{os.fsdecode(one.root)}: {_why(error)}", waits=True)
        finally:
            source.close()
    return Recovered(commit, landed, problem, put_back=tuple(found))


def open_for_commit(one: PendingSource, opener: Opener) -> Source:
    """The source that a commit was about. Raises OSError where it is out of reach."""
    source = opener(one)
    if not one.is_file and source.identity[1] != one.ino:
        source.close()
        raise OSError(errno.ESTALE, "another folder has taken its name")
    try:
        return source.for_commit()
    finally:
        source.close()


def _why(error: OSError) -> str:
    return error.strerror or str(error)
