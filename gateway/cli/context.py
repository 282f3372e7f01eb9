"""What all commands share: the chosen workspace, output as text or JSON, paths, confirmation.

Terminal rules: results go to standard output, everything else to standard error. `--json` prints
one document and nothing beside it. Colour only on a terminal, never under NO_COLOR or --no-color.
Text that came from files or agents is escaped before a terminal sees it.
"""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar

import click

from gateway import settings
from gateway.control.client import Reply, call, is_running
from gateway.errors import GrantfsError, NotFoundError, UsageError
from gateway.places import Places, check_name

F = TypeVar("F", bound=Callable[..., Any])


@dataclass
class State:
    """Choices that hold for the whole call."""

    workspace: str | None = None
    json: bool = False
    no_color: bool = False
    debug: bool = False
    places: Places = field(default_factory=Places.from_environment)

    # -- which workspace -------------------------------------------------------------------

    def named(self) -> str | None:
        """The workspace that option or environment name, if any."""
        name = self.workspace or os.environ.get("GRANTFS_WORKSPACE")
        return check_name(name) if name else None

    def choose(self) -> str:
        """The workspace that the call is about. Raises NotFoundError, UsageError."""
        name = self.named()
        known = self.places.names()
        if name is not None:
            if name not in known:
                raise NotFoundError(f"no workspace {name!r}: `grantfs ps` lists them")
            return name
        if not known:
            raise NotFoundError("there is no workspace yet: `grantfs up PATH` makes one")
        if len(known) == 1:
            return known[0]
        here = current_folder()
        found = [name for name in known if here is not None and self._holds(name, here)]
        if len(found) == 1:
            return found[0]
        raise UsageError(f"which workspace? name one with -w: {', '.join(known)}")

    def _holds(self, name: str, folder: str) -> bool:
        mountpoint = settings.load(self.places.workspace(name)).mountpoint
        if _within(folder, mountpoint):
            return True
        if not self.running(name):
            return False
        grants = self.call(name, "grants").result
        return any(_within(folder, grant["path"]) for grant in grants)

    def running(self, name: str) -> bool:
        """True if the workspace's daemon answers."""
        return is_running(self.places.socket(name))

    def call(self, name: str, op: str, **fields: Any) -> Reply:
        """Ask a workspace's daemon; its notes go to standard error."""
        reply = call(self.places.socket(name), name, op, **fields)
        for note in reply.notes:
            tell(note)
        return reply

    def ask(self, op: str, **fields: Any) -> Any:
        """Ask the chosen workspace's daemon; the result."""
        return self.call(self.choose(), op, **fields).result

    def parts(self, op: str, **fields: Any) -> Iterator[Any]:
        """Ask the chosen workspace's daemon for what it answers in parts, as they come. It never
        waits for whoever takes them."""
        came: SimpleQueue[tuple[Any, BaseException | None] | None] = SimpleQueue()

        def ask() -> None:
            try:
                self.ask(op, take=lambda part: came.put((part, None)), **fields)
            except BaseException as error:
                came.put((None, error))
            came.put(None)

        Thread(target=ask, daemon=True).start()
        while (one := came.get()) is not None:
            part, error = one
            if error is not None:
                raise error
            yield part

    # -- output ----------------------------------------------------------------------------

    def show(self, result: Any, text: Callable[[], str]) -> None:
        """Print a result: as JSON, or as the text that *text* makes of it."""
        if self.json:
            print_json(result)
        else:
            shown = text()
            if shown:
                click.echo(shown)

    @property
    def color(self) -> bool:
        """True where colour is welcome."""
        return sys.stdout.isatty() and not self.no_color and not os.environ.get("NO_COLOR")


def current_folder() -> str | None:
    """The current folder, None where it is gone (a mount that ended under a shell)."""
    try:
        return os.getcwd()
    except OSError:
        return os.environ.get("PWD")


def _within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def print_json(document: Any) -> None:
    """Print one JSON document."""
    click.echo(json.dumps(document, indent=2 if sys.stdout.isatty() else None))


def tell(message: str) -> None:
    """Tell the user something on standard error."""
    click.echo(f"grantfs: {message}", err=True)


def printable(text: str) -> str:
    """Text from files or agents, with what would move a cursor or hide made visible."""
    from gateway.audit.sentences import visible

    return visible(text)


def forms(argument: str) -> list[str]:
    """The forms of a PATH argument that a daemon tries: absolute, canonical, and as given."""
    here = current_folder() or "/"
    absolute = os.path.normpath(os.path.join(here, argument))
    found = [absolute]
    with suppress(OSError):
        real = os.path.realpath(absolute)
        if real != absolute:
            found.append(real)
    found.append(argument)
    return found


def all_forms(arguments: Sequence[str]) -> list[list[str]]:
    """`forms` of several arguments."""
    return [forms(argument) for argument in arguments]


def confirm(question: str, yes: bool) -> None:
    """Ask on a terminal unless told yes already. Raises UsageError where nobody can answer."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError("nobody is here to confirm: add -y")
    if not click.confirm(question, err=True):
        raise GrantfsError("left as it was")


def page(texts: Iterable[str]) -> None:
    """Show texts through the user's pager, as they come."""
    command = shlex.split(os.environ.get("GIT_PAGER") or os.environ.get("PAGER") or "less -FRX")
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE) if command != ["cat"] else None
    except (OSError, ValueError, IndexError):
        pager = None
    if pager is None or pager.stdin is None:
        for text in texts:
            click.echo(text, nl=False)
        return
    # Who quits the pager has seen enough.
    with suppress(BrokenPipeError), pager:
        for text in texts:
            pager.stdin.write(text.encode())


def _set(name: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, _parameter: click.Parameter, value: Any) -> None:
        if value:
            setattr(context.ensure_object(State), name, value)

    return callback


def shared(command: F) -> F:
    """Add the options that every command takes: -w, --json, --no-color, --debug."""
    for decorate in (
        click.option("--debug", is_flag=True, expose_value=False, callback=_set("debug"),
                     help="Show a traceback with an error."),
        click.option("--no-color", is_flag=True, expose_value=False, callback=_set("no_color"),
                     help="No colour."),
        click.option("--json", is_flag=True, expose_value=False, callback=_set("json"),
                     help="Print JSON."),
        click.option("-w", "--workspace", metavar="NAME", expose_value=False,
                     callback=_set("workspace"), help="The workspace to work on."),
    ):  # fmt: skip
        command = decorate(command)
    return command


pass_state = click.make_pass_decorator(State, ensure=True)
