"""`audit`: the log, read from its file, so that it can be read and verified with no daemon."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click

from gateway import durations, settings
from gateway.cli.context import State, forms, pass_state, shared, tell
from gateway.errors import EXIT_FAILED, GrantfsError, UsageError

_TAIL = 10
_FOLLOW_SECONDS = 0.5


@click.command()
@click.argument("action", type=click.Choice(["show", "tail", "verify"]), default="show")
@click.option("--since", metavar="T", help="A time (RFC 3339) or how long ago (15m, 8h).")
@click.option("--event", "events", multiple=True, metavar="E", help="Only events of this kind.")
@click.option("--path", "path", metavar="P", help="Only this file, or all below this folder.")
@click.option("-f", "--follow", is_flag=True, help="With tail: go on as events come.")
@shared
@pass_state
def audit(
    state: State,
    action: str,
    since: str | None,
    events: tuple[str, ...],
    path: str | None,
    follow: bool,
) -> int:
    """Show the log, its end, or verify that nobody changed it."""
    name = state.choose()
    folder = state.places.workspace(name)
    if state.running(name):
        state.call(name, "flush-audit")
    if action == "verify":
        return _verify(state, folder)
    filters = _filters(state, name, since, events, path)
    if action == "tail":
        filters |= {"newest": True, "limit": _TAIL}
    last = 0
    for record in _read(folder, filters):
        _print(state, record)
        last = record.seq
    while action == "tail" and follow:
        time.sleep(_FOLLOW_SECONDS)
        if state.running(name):
            state.call(name, "flush-audit")
        for record in _read(folder, filters | {"newest": False, "limit": None, "after": last}):
            _print(state, record)
            last = record.seq
    return 0


def _read(folder: Path, filters: dict[str, Any]) -> Iterator[Any]:
    from gateway.audit.reader import read

    return read(folder, **filters)


def _print(state: State, record: Any) -> None:
    from gateway.audit.sentences import sentence

    if state.json:
        click.echo(json.dumps(record.to_json()))
    else:
        click.echo(f"{record.to_json()['time'][:19]}Z  {sentence(record)}")


def _filters(
    state: State, name: str, since: str | None, events: tuple[str, ...], path: str | None
) -> dict[str, Any]:
    from gateway.audit.events import Event

    filters: dict[str, Any] = {}
    if since is not None:
        filters["since"] = _moment(since)
    if events:
        try:
            filters["events"] = {Event(event) for event in events}
        except ValueError as error:
            raise UsageError(f"{error}: use one of {', '.join(Event)}") from error
    if path is not None:
        filters["path"] = _mount_path(state, name, path)
    return filters


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        seconds = durations.parse(text)
        if seconds is None:
            raise UsageError("--since takes a time or a length such as 8h") from None
        return datetime.now(UTC) - timedelta(seconds=seconds)
    return moment if moment.tzinfo is not None else moment.astimezone()


def _mount_path(state: State, name: str, path: str) -> bytes:
    """The log's form of a PATH argument: relative to the mount's root."""
    mountpoint = settings.load(state.places.workspace(name)).mountpoint
    grants = state.call(name, "grants", all=True).result if state.running(name) else []
    for form in forms(path):
        if form.startswith(mountpoint + "/"):
            return form[len(mountpoint) + 1 :].encode("utf-8", "surrogateescape")
        for grant in grants:
            if form == grant["path"] or form.startswith(grant["path"] + "/"):
                rest = form[len(grant["path"]) :]
                shown: str = grant["mounted_as"] + rest
                return shown.encode("utf-8", "surrogateescape")
    return path.strip("/").encode("utf-8", "surrogateescape")


def _verify(state: State, folder: Path) -> int:
    from gateway.audit.errors import AuditError
    from gateway.audit.verify import verify

    chosen = settings.load(folder)
    try:
        found = verify(folder, bytes.fromhex(chosen.public_key))
    except AuditError as error:
        raise GrantfsError(str(error)) from error
    shown = {
        "ok": found.ok,
        "entries": found.entries,
        "checkpoints": found.checkpoints,
        "first_bad_seq": found.first_bad_seq,
        "why": found.why,
    }
    if not found.ok:
        tell(f"the log does not hold: entry {found.first_bad_seq}: {found.why}")
    state.show(
        shown,
        lambda: (
            f"{found.entries} entries, {found.checkpoints} checkpoints: "
            + ("the log holds" if found.ok else "the log was changed")
        ),
    )
    return 0 if found.ok else EXIT_FAILED
