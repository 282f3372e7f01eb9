"""`up`, `down`, `ps`, `rm`: workspaces from their first to their last day."""

import json
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click

from gateway import durations, settings, sizes
from gateway.cli.context import State, confirm, pass_state, printable, shared, tell
from gateway.control.client import daemon_pid
from gateway.errors import GrantfsError, NotFoundError, NotRunningError, UsageError
from gateway.places import Places, check_name

DEFAULT_DURATION = "8h"
STOP_SECONDS = 30
"""How long `down` waits for a daemon that has said it will stop."""
FORCE_SECONDS = 5
"""How long `down --force` waits for an answer, and then for the end, before it kills."""


# -- up ------------------------------------------------------------------------------------


@click.command()
@click.argument("paths", nargs=-1, metavar="[PATH]...")
@click.option("--name", metavar="NAME", help="Name of the workspace.")
@click.option("--mount", metavar="DIR", help="Where to mount it.")
@click.option("--read", "read", multiple=True, metavar="PATH", help="Grant for reading only.")
@click.option("--write", "write", multiple=True, metavar="PATH", help="Grant staged writes too.")
@click.option("--list", "list_", multiple=True, metavar="PATH", help="Grant names and sizes only.")
@click.option(
    "--for",
    "duration",
    metavar="D",
    default=DEFAULT_DURATION,
    show_default=True,
    help="How long: 30s, 15m, 8h, 7d or until-revoked.",
)
@click.option("--subject", default="agent", show_default=True, metavar="S", help="Who it is for.")
@click.option(
    "--redact",
    "profile",
    default="secrets",
    show_default=True,
    metavar="PROFILE",
    help="secrets, secrets+pii, strict or none.",
)
@click.option("--adapter", type=click.Choice(["pyfuse3", "mfusepy"]), help="How to mount.")
@click.option("--no-ask", is_flag=True, help="Refuse at once where policy would ask.")
@click.option("--ask-timeout", metavar="D", help="How long an open waits for an answer.")
@click.option(
    "--agent-user",
    metavar="USER",
    help="Let this Unix user use the mount too, under the files' modes; `any`: all users.",
)
@click.option(
    "--stage-limit", metavar="SIZE", help="Most that staged changes may take up: 500M, 16G."
)
@click.option("--undo-limit", metavar="SIZE", help="Most that is kept to undo commits: 500M, 2G.")
@click.option("--undo-days", type=int, metavar="N", help="Days for which commits can be undone.")
@click.option("--foreground", is_flag=True, help="Stay until interrupted.")
@shared
@pass_state
def up(
    state: State,
    paths: tuple[str, ...],
    name: str | None,
    mount: str | None,
    read: tuple[str, ...],
    write: tuple[str, ...],
    list_: tuple[str, ...],
    duration: str,
    subject: str,
    profile: str,
    adapter: str | None,
    no_ask: bool,
    ask_timeout: str | None,
    agent_user: str | None,
    stage_limit: str | None,
    undo_limit: str | None,
    undo_days: int | None,
    foreground: bool,
) -> int | None:
    """Make or reopen a workspace, grant PATHs, mount it.

    A bare PATH is granted for reading and staged writes. With no PATH, the chosen or only
    workspace is reopened with its live grants; where there is none, one is made for the current
    folder.
    """
    seconds = durations.parse(duration)
    timeout = durations.parse(ask_timeout) if ask_timeout else None
    limit = sizes.parse(stage_limit) if stage_limit else None
    wanted = [(path, "write") for path in (*paths, *write)]
    wanted += [(path, "read") for path in read] + [(path, "list") for path in list_]
    if name:
        state.workspace = check_name(name)
    chosen, wanted = _choose(state, wanted)
    grants = [
        {
            "path": canonical(path),
            "access": access,
            "seconds": seconds,
            "subject": subject,
            "profile": profile,
        }
        for path, access in wanted
    ]
    changes = {
        key: value
        for key, value in (
            ("ask", False if no_ask else None),
            ("ask_timeout", timeout),
            ("stage_limit", limit),
            ("undo_limit", sizes.parse(undo_limit) if undo_limit else None),
            ("undo_days", undo_days),
        )
        if value is not None
    }
    if state.running(chosen):
        _check_running(state, chosen, mount, adapter, agent_user)
        if changes:
            state.call(chosen, "configure", **changes)
        if grants:
            state.call(chosen, "grant", grants=grants, keep=True)
        _show_up(state, state.call(chosen, "info").result)
        return None
    start: dict[str, Any] = {"name": chosen, "grants": grants, **changes}
    if mount is not None:
        start["mountpoint"] = os.path.abspath(mount)
    if adapter is not None:
        start["adapter"] = adapter
    if agent_user is not None:
        start["agent_user"] = agent_user
    daemon, info = start_daemon(start, foreground=foreground)
    _show_up(state, info)
    if not foreground:
        return None
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda received, _frame: daemon.send_signal(received))
    return daemon.wait()


def _check_running(
    state: State, name: str, mount: str | None, adapter: str | None, agent_user: str | None
) -> None:
    """Refuse to change what only a start can. Raises UsageError."""
    known = settings.load(state.places.workspace(name))
    if mount is not None and known.mountpoint != os.path.abspath(mount):
        raise UsageError(
            f"workspace {name!r} is mounted at {known.mountpoint} already:"
            " take it down first to mount it elsewhere"
        )
    for option, wanted, value in (
        ("--adapter", adapter, known.adapter),
        ("--agent-user", agent_user, known.agent_user),
    ):
        if wanted not in (None, value):
            raise UsageError(f"workspace {name!r} is running: take it down to change {option}")


def canonical(path: str) -> str:
    """The canonical absolute form of a host path to grant: links resolved, as the user sees it."""
    return os.path.realpath(path)


def _mountpoint(state: State, name: str) -> str:
    return settings.load(state.places.workspace(name)).mountpoint


def _choose(state: State, wanted: list[tuple[str, str]]) -> tuple[str, list[tuple[str, str]]]:
    """The workspace that `up` is about, and what to grant in it."""
    name = state.named()
    known = state.places.names()
    if name is None and known:
        return state.choose(), wanted
    if name is not None and (name in known or wanted):
        return name, wanted
    if not wanted:
        wanted = [(os.getcwd(), "write")]
    if name is None:
        name = _name_after(wanted[0][0])
    return name, wanted


def _name_after(path: str) -> str:
    base = os.path.basename(os.path.realpath(path))
    return re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip(".-")[:64] or "workspace"


def start_daemon(
    start: dict[str, Any], *, foreground: bool = False
) -> tuple["subprocess.Popen[bytes]", dict[str, Any]]:
    """Start a daemon and wait until it serves; its own error is raised where it cannot."""
    # -P: a folder named `gateway` in the current one must not be what Python imports.
    daemon = subprocess.Popen(
        [sys.executable, "-P", "-m", "gateway.daemon"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if foreground else subprocess.DEVNULL,
        start_new_session=True,
        cwd="/",
    )
    assert daemon.stdin is not None
    assert daemon.stdout is not None
    try:
        daemon.stdin.write(json.dumps(start).encode() + b"\n")
        daemon.stdin.close()
    except BrokenPipeError:
        pass  # it died early; what it printed, or did not, tells below
    line = daemon.stdout.readline()
    daemon.stdout.close()
    if not line:
        daemon.wait()
        raise GrantfsError("the daemon did not start: `grantfs doctor` says what is missing")
    answer = json.loads(line)
    if not answer["ok"]:
        daemon.wait()
        raise GrantfsError(answer["error"]["message"], answer["error"]["exit_code"])
    for note in answer["notes"]:
        tell(note)
    info: dict[str, Any] = answer["result"]
    # The kernel answers from here on only through the daemon: this returns when the mount does.
    os.stat(os.path.join(info["mountpoint"], ".grantfs"))
    return daemon, info


def _show_up(state: State, info: dict[str, Any]) -> None:
    shown = {key: info[key] for key in ("workspace", "mountpoint", "pid", "grants")}

    def text() -> str:
        lines = [f"{info['workspace']} is up at {printable(info['mountpoint'])}"]
        lines += [f"  {line}" for line in grant_lines(info["grants"])]
        if not info["grants"]:
            lines.append("  nothing is granted: `grantfs grant PATH` adds something")
        lines.append(
            "Point your agent there. `grantfs diff` and `grantfs commit` review what it changes."
        )
        return "\n".join(lines)

    state.show(shown, text)


def grant_lines(grants: list[dict[str, Any]]) -> list[str]:
    """Grants as aligned lines for people."""
    rows = [
        (
            printable(grant["mounted_as"]),
            grant["access"],
            "until revoked" if grant["expires_at"] is None else f"until {grant['expires_at']}",
            printable(grant["path"]),
            grant["id"] if grant["status"] == "live" else f"{grant['id']} {grant['status']}",
        )
        for grant in grants
    ]
    widths = [max((len(row[i]) for row in rows), default=0) for i in range(4)]
    return [
        "  ".join([*(row[i].ljust(widths[i]) for i in range(4)), row[4]]).rstrip() for row in rows
    ]


# -- down ----------------------------------------------------------------------------------


@click.command()
@click.option("--name", metavar="NAME", help="The workspace, as -w.")
@click.option("--all", "everything", is_flag=True, help="Every running workspace.")
@click.option("--force", is_flag=True, help="Kill a daemon that does not stop by itself.")
@shared
@pass_state
def down(state: State, name: str | None, everything: bool, force: bool) -> None:
    """Unmount a workspace and stop its daemon; staged work, grants and the log stay."""
    if name:
        state.workspace = name
    if everything:
        names = [one for one in state.places.names() if state.running(one) or force]
    else:
        names = [state.choose()]
    stopped = [_stop(state, one, force) for one in names]
    result: Any = stopped if everything else stopped[0]
    state.show(result, lambda: "\n".join(f"{one['workspace']} is down" for one in stopped))


def _stop(state: State, name: str, force: bool) -> dict[str, Any]:
    mountpoint = _mountpoint(state, name)
    if force:
        _stop_by_force(state, name, mountpoint)
    else:
        pid = state.call(name, "stop").result["pid"]
        if not _wait_for_end(pid, STOP_SECONDS):
            raise GrantfsError(f"the daemon of {name!r} (pid {pid}) does not stop: try --force")
    return {"workspace": name, "unmounted": mountpoint}


def _stop_by_force(state: State, name: str, mountpoint: str) -> None:
    """End the daemon whatever state it is in, and unmount: one that answers stops by itself."""
    pid = daemon_pid(state.places.socket(name))
    if pid is not None:
        try:
            state.call(name, "stop", patience=FORCE_SECONDS, force=True)
        except GrantfsError as error:
            tell(f"{error.message}: it is killed")
        if not _wait_for_end(pid, FORCE_SECONDS):
            os.kill(pid, signal.SIGKILL)
            _wait_for_end(pid, STOP_SECONDS)
    _clean_up_dead(state.places, name, mountpoint)


def _wait_for_end(pid: int, seconds: float) -> bool:
    """True once the process has ended; its pidfd becomes readable then."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
    finally:
        os.close(fd)


def _clean_up_dead(places: Places, name: str, mountpoint: str) -> None:
    from gateway.daemon.mounting import unmount_stale
    from gateway.daemon.state import lock

    fd = lock(places.workspace(name))
    try:
        unmount_stale(mountpoint)
    finally:
        os.close(fd)


# -- ps ------------------------------------------------------------------------------------


@click.command()
@shared
@pass_state
def ps(state: State) -> None:
    """List every workspace: running or not, where it is mounted, what waits."""
    rows = [_row(state, name) for name in state.places.names()]

    def text() -> str:
        if not rows:
            return "no workspaces: `grantfs up PATH` makes one"
        lines = [f"{'WORKSPACE':<20} {'STATE':<8} {'GRANTS':>6} {'CHANGES':>7}  MOUNT"]
        for row in rows:
            word = "running" if row["running"] else "stopped"
            lines.append(
                f"{row['workspace']:<20} {word:<8} {row['grants']:>6} {row['changes']:>7}"
                f"  {printable(row['mountpoint'])}"
            )
        return "\n".join(lines)

    state.show(rows, text)


def _row(state: State, name: str) -> dict[str, Any]:
    folder = state.places.workspace(name)
    chosen = settings.load(folder)
    try:
        info = state.call(name, "info").result
        return {
            "workspace": name,
            "running": True,
            "mountpoint": info["mountpoint"],
            "pid": info["pid"],
            "grants": len(info["grants"]),
            "changes": info["changes"],
            "requests": info["requests"],
            "stage_bytes": info["stage_bytes"],
            "stage_limit": info["stage_limit"],
        }
    except NotRunningError:
        if chosen.key_store == "file":
            from gateway.authority.keystore_warning import FILE_WARNING

            tell(f"{name}: {FILE_WARNING}")
        return {
            "workspace": name,
            "running": False,
            "mountpoint": chosen.mountpoint,
            "pid": None,
            "grants": _count_grants(folder),
            "changes": count_staged(folder),
            "requests": 0,
            "stage_bytes": _stage_bytes(folder),
            "stage_limit": chosen.stage_limit,
        }


def _stage_bytes(folder: Path) -> int:
    """What the staged contents of a stopped workspace take up."""
    try:
        with os.scandir(folder / "bodies") as bodies:
            return sum(body.stat(follow_symlinks=False).st_blocks * 512 for body in bodies)
    except FileNotFoundError:
        return 0


def _query(database: Path, query: str, *values: Any) -> int:
    if not database.exists():
        return 0
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        (count,) = connection.execute(query, values).fetchone()
        return int(count)
    except sqlite3.Error:
        return 0
    finally:
        connection.close()


def _count_grants(folder: Path) -> int:
    return _query(
        folder / "grants.db",
        "SELECT count(*) FROM grants WHERE revoked_at IS NULL AND NOT ended"
        " AND (expires_at IS NULL OR expires_at > ?)",
        time.time(),
    )


def count_staged(folder: Path) -> int:
    """Staged names of a stopped workspace that are no mere folders on the way."""
    return _query(
        folder / "stage.db",
        "SELECT count(*) FROM entry LEFT JOIN inode ON inode.ino = entry.ino"
        " WHERE entry.ino = 0 OR (inode.mode & 61440) <> 16384 OR inode.own_mode",
    )


# -- rm ------------------------------------------------------------------------------------


@click.command()
@click.argument("name")
@click.option("-y", "yes", is_flag=True, help="Also where changes are staged.")
@shared
@pass_state
def rm(state: State, name: str, yes: bool) -> None:
    """Delete a stopped workspace with its stage, keys and log."""
    folder = state.places.workspace(name)
    if name not in state.places.names():
        raise NotFoundError(f"no workspace {name!r}: `grantfs ps` lists them")
    if state.running(name):
        raise GrantfsError(f"workspace {name!r} is running: stop it with `grantfs down -w {name}`")
    staged = count_staged(folder)
    if staged and not yes:
        if not sys.stdin.isatty():
            raise GrantfsError(
                f"workspace {name!r} holds {staged} staged changes: commit them, or add -y to"
                " delete them too"
            )
        confirm(f"{name} holds {staged} staged changes. Delete them too?", yes)
    from gateway.daemon.state import remove_workspace

    remove_workspace(state.places, name)
    state.show({"removed": name}, lambda: f"{name} is gone")
