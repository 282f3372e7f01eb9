"""Exit codes and errors of grantfs, as `cli.md` has them.

Standard library only: the command line imports this before anything else.
"""

EXIT_FAILED = 1
"""Something went wrong; the message says what and what to do."""
EXIT_USAGE = 2
"""The command was not understood."""
EXIT_CONFLICT = 3
"""The source changed under a staged change, or a placeholder waits for a decision."""
EXIT_REFUSED = 4
"""Policy or consent refused."""
EXIT_NOT_FOUND = 5
"""No such workspace, grant, request or commit."""
EXIT_NOT_RUNNING = 6
"""The workspace's daemon is not running."""


class GrantfsError(Exception):
    """What the user can mend: printed as one line, never as a traceback.

    `message` reads `what was wrong: why, and what to do`; `exit_code` is one of the above.
    """

    exit_code = EXIT_FAILED

    def __init__(self, message: str, exit_code: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        if exit_code is not None:
            self.exit_code = exit_code


class UsageError(GrantfsError):
    """The command line or its arguments make no sense."""

    exit_code = EXIT_USAGE


class ConflictError(GrantfsError):
    """A source moved under a staged change."""

    exit_code = EXIT_CONFLICT


class RefusedError(GrantfsError):
    """Policy or consent refused."""

    exit_code = EXIT_REFUSED


TOO_LARGE = "too large to be undone"
"""How the error begins that asks whether to commit without an undo."""


class NotFoundError(GrantfsError):
    """No such workspace, grant, request or commit."""

    exit_code = EXIT_NOT_FOUND


class NotRunningError(GrantfsError):
    """The workspace's daemon is not running."""

    exit_code = EXIT_NOT_RUNNING
