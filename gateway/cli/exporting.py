"""`export`: staged changes as a file for another program, in masked form."""

import base64
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click

from gateway.cli.context import State, all_forms, pass_state, shared
from gateway.errors import GrantfsError, UsageError


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option(
    "--format", "form", type=click.Choice(["patch", "tar"]), default="patch",
    help="A patch that `git apply` takes, or a tar in the form of a container image's layer.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE", help="Where to write it; standard output else.")
@shared
@pass_state
def export(state: State, paths: tuple[str, ...], form: str, output: str | None) -> None:
    """Write staged changes to a file; what is masked stays masked."""
    if output is None and (state.json or (form == "tar" and sys.stdout.isatty())):
        raise UsageError("name a file with -o: standard output is taken")
    wanted = all_forms(paths)

    def pieces() -> Iterator[bytes]:
        if form == "tar":
            for part in state.parts("export", paths=wanted):
                yield base64.b64decode(part)
        else:
            for part in state.parts("diff", paths=wanted, binary=True):
                yield part["patch"].encode("latin-1")

    if output is None:
        for piece in pieces():
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
        return
    size = _write(Path(output), pieces())
    state.show({"output": output, "format": form, "size": size}, lambda: f"wrote {output}")


def _write(target: Path, pieces: Iterator[bytes]) -> int:
    """Write a file whole or not at all, for its owner alone; its size in bytes."""
    try:
        fd, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(fd, "wb") as file:
                for piece in pieces:
                    file.write(piece)
                size = file.tell()
            os.replace(temporary, target)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise GrantfsError(f"{target}: it cannot be written: {error.strerror}") from error
    return size
