"""`scan` and `doctor`: what redaction would mask, and what this machine lacks."""

import os
from typing import Any

import click

from gateway.cli.context import State, forms, pass_state, printable, shared
from gateway.errors import EXIT_FAILED, GrantfsError
from gateway.places import Places


@click.command()
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@shared
@pass_state
def scan(state: State, paths: tuple[str, ...]) -> None:
    """Tell what redaction would mask, without showing it."""
    found = _scan_in_workspaces(state, paths)

    def text() -> str:
        lines = [f"{printable(one['path'])}:{one['line']}: {one['rule']}" for one in found]
        return "\n".join(lines) or "nothing to mask"

    state.show(found, text)


def _scan_in_workspaces(state: State, paths: tuple[str, ...]) -> list[dict[str, Any]]:
    """Host paths are scanned here; paths of a mount by its daemon, which has the source."""
    found: list[dict[str, Any]] = []
    redactor = None
    for path in paths:
        absolute = forms(path)[0]
        name = _mounted_in(state, absolute)
        if name is None and not os.path.exists(absolute):
            found += state.ask("scan", paths=[forms(path)])
            continue
        if name is not None:
            found += state.call(name, "scan", paths=[forms(path)]).result
            continue
        if redactor is None:
            redactor = _local_redactor(state.places)
        from gateway.scanning import scan_path

        found += scan_path(redactor, os.fsencode(os.path.realpath(absolute)))
    return found


def _mounted_in(state: State, absolute: str) -> str | None:
    from gateway import settings

    for name in state.places.names():
        mountpoint = settings.load(state.places.workspace(name)).mountpoint
        if absolute.startswith(mountpoint + "/"):
            return name
    return None


def _local_redactor(places: Places) -> Any:
    import secrets

    from gateway.daemon import rulepacks
    from gateway.daemon.redaction import build_engine
    from policies.packs import PackError
    from vfs.redaction import Masker, Redactor, RuleError, ScanError

    try:
        engine = build_engine(rulepacks.load(rulepacks.folders(places)), None)
    except (PackError, RuleError, ScanError) as error:
        raise GrantfsError(f"{error}; mend it and try again") from error
    # The key makes placeholders, of which a scan makes none that anybody sees.
    return Redactor(engine, Masker(secrets.token_bytes(32)))


@click.command()
@shared
@pass_state
def doctor(state: State) -> int:
    """Tell what is missing on this machine, and the command that mends it."""
    from gateway.diagnosis import checks

    found = checks(state.places)

    def text() -> str:
        lines = []
        for one in found:
            mark = "ok     " if one["ok"] else ("MISSING" if one["required"] else "note   ")
            lines.append(f"{mark}  {one['check']}: {one['detail']}")
            if not one["ok"] and one["fix"]:
                lines.append(f"         {one['fix']}")
        return "\n".join(lines)

    state.show(found, text)
    if any(one["required"] and not one["ok"] for one in found):
        return EXIT_FAILED
    return 0
