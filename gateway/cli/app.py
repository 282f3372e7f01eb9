"""The program: its commands, found lazily, and how its errors end."""

import importlib
import os
import sys
import traceback
from collections.abc import Sequence

import click

from gateway.cli.context import State, shared, tell
from gateway.errors import EXIT_FAILED, EXIT_USAGE, GrantfsError

_COMMANDS = {
    "up": "workspaces",
    "down": "workspaces",
    "ps": "workspaces",
    "rm": "workspaces",
    "grant": "granting",
    "grants": "granting",
    "renew": "granting",
    "revoke": "granting",
    "status": "reviewing",
    "diff": "reviewing",
    "export": "exporting",
    "commit": "reviewing",
    "discard": "reviewing",
    "log": "reviewing",
    "show": "reviewing",
    "undo": "reviewing",
    "audit": "auditing",
    "scan": "checking",
    "doctor": "checking",
}
"""Command by name, and the module that holds it: only the one that is called is imported."""


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        found: click.Command = getattr(importlib.import_module(f"gateway.cli.{module}"), cmd_name)
        return found


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@shared
@click.version_option(package_name="grantfs", message="%(prog)s %(version)s")
def app() -> None:
    """Give AI agents a granted, masked, staged and logged view of your files.

    `grantfs up FOLDER` mounts a workspace; point the agent at the mount; `grantfs diff` and
    `grantfs commit` review and apply what it changed; `grantfs revoke` and `grantfs down` end it.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; returns its exit code. An error is one line, never a traceback."""
    state = State()
    try:
        result = app.main(arguments, prog_name="grantfs", obj=state, standalone_mode=False)
        sys.stdout.flush()
    except GrantfsError as error:
        return _fail(state, error, error.message, error.exit_code)
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return _fail(state, None, "interrupted", 130)
    except click.ClickException as error:
        code = EXIT_USAGE if isinstance(error, click.UsageError) else EXIT_FAILED
        return _fail(state, error, _usage(error), code)
    except BrokenPipeError:
        # The reader (head, a pager that was quit) has enough: keep Python's own flush quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except KeyboardInterrupt:
        return _fail(state, None, "interrupted", 130)
    except OSError as error:
        name = f"{error.filename}: " if error.filename else ""
        return _fail(state, error, f"{name}{error.strerror or error}", EXIT_FAILED)
    except Exception as error:
        text = f"internal error: {type(error).__name__}: {error}; --debug shows where"
        return _fail(state, error, text, EXIT_FAILED)
    return result if isinstance(result, int) else 0


def _usage(error: click.ClickException) -> str:
    text = error.format_message().rstrip(".")
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "grantfs"
    return f"{text}: see `{path} --help`"


def _fail(state: State, error: Exception | None, message: str, code: int) -> int:
    if state.debug and error is not None:
        traceback.print_exception(error)
    tell(" ".join(message.split("\n")))
    return code
