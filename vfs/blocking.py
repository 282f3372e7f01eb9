"""How the synchronous core asks for time: it never blocks its task, it raises `Blocked`.

An operation that needs long work (a scan or copy of a large file, a wait for the user) raises
`Blocked` before it has changed anything. The adapter runs the job off its loop, with no lock
held, and calls the operation again, which then finds the work done.
"""

from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


class Blocked(Exception):
    """Carries the job to run in a worker thread before the operation is tried again.

    The job raises OSError when the operation cannot succeed.
    """

    def __init__(self, job: Callable[[], None]) -> None:
        super().__init__("operation has to wait for a job")
        self.job = job


def finish(operation: Callable[[], T]) -> T:
    """Run an operation to its end on this very thread, jobs included."""
    while True:
        try:
            return operation()
        except Blocked as blocked:
            blocked.job()
