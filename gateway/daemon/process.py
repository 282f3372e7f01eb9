"""The daemon's process: hardened, started by `up`, ready when the mount answers, stopped by
SIGTERM, `down` or an unmount.

It reads one start-up message from standard input, answers on standard output with one line once
it serves (or with the reason why it cannot), and then owns neither.
"""

import ctypes
import json
import logging
import os
import resource
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from gateway import settings
from gateway.audit.events import Event
from gateway.authority import keys as keystore
from gateway.control import messages, server
from gateway.daemon import agent_files, kernel
from gateway.daemon.handlers import Handlers
from gateway.daemon.mounting import (
    check_fuse,
    check_mountpoint,
    make_mount,
    open_mount,
    prepare_mountpoint,
    unmount_stale,
)
from gateway.daemon.reserve import Reserve
from gateway.daemon.state import create_state, lock, with_start
from gateway.daemon.workspace import Workspace
from gateway.errors import GrantfsError
from gateway.places import Places, make_private
from policies.packs import PackError
from policies.parse import PolicyError
from vfs.redaction import RuleError, ScanError

log = logging.getLogger(__name__)

LOG_NAME = "daemon.log"
_PR_SET_DUMPABLE = 4


def harden() -> None:
    """No core, no ptrace or /proc/PID/mem by others of this uid, private files, enough
    descriptors: the daemon's limit on open files is every client's."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        raise GrantfsError("cannot make the daemon's memory private (prctl failed)")
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    os.umask(0o077)
    os.chdir("/")


class Daemon:
    """One workspace's service from its first to its last moment."""

    def __init__(self, workspace: Workspace, start: messages.StartUp, stale: bool) -> None:
        self._workspace = workspace
        self._start = start
        self._stale = stale
        self._stopping = trio.Event()
        self.handlers = Handlers(workspace, self._stopping.set)
        self.failure: GrantfsError | None = None

    def _own_files(self) -> None:
        virtual = self._workspace.fs.virtual
        virtual.add(b"README.md", agent_files.readme)
        virtual.add(b"grants.json", lambda: agent_files.grants_json(self._workspace.grants))

    async def run(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Serve until stopped; *ready* is told once. Raises GrantfsError if it cannot start."""
        workspace = self._workspace
        self._own_files()
        _made, notes = await self.handlers.make_grants(self._start.grants, keep=True)
        mount = make_mount(workspace)
        # Before the mount opens: libfuse takes signals that still have their default action.
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            await self._mounted(mount, signals, ready, notes)

    async def _mounted(
        self,
        mount: kernel.Mount,
        signals: AsyncIterator[int],
        ready: Callable[[dict[str, Any]], None],
        notes: list[str],
    ) -> None:
        workspace = self._workspace
        open_mount(mount, workspace.settings.mountpoint, workspace.folder / LOG_NAME)
        workspace.mount = mount
        try:
            await self._serve(mount, signals, ready, notes)
        finally:
            mount.close()

    async def _serve(
        self,
        mount: kernel.Mount,
        signals: AsyncIterator[int],
        ready: Callable[[dict[str, Any]], None],
        notes: list[str],
    ) -> None:
        workspace = self._workspace
        make_private(workspace.places.runtime)
        path = workspace.places.socket(workspace.settings.name)
        listener = server.bind(path)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_unmounted, mount)
                nursery.start_soon(self._until_signalled, signals)
                nursery.start_soon(self._guard, workspace.expire)
                nursery.start_soon(self._guard, workspace.watch_policy)
                nursery.start_soon(self._guard, workspace.keep_house)
                nursery.start_soon(server.serve, listener, self.handlers)
                self._log_start()
                ready(
                    {
                        "ok": True,
                        "result": self.handlers.info(),
                        "notes": notes + self.handlers.warnings(),
                    }
                )
                await self._stopping.wait()
                await workspace.end_service()
                mount.stop()
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
            path.unlink(missing_ok=True)

    def _log_start(self) -> None:
        workspace = self._workspace
        chosen = workspace.settings
        workspace.log.append(
            Event.DAEMON_START,
            detail={
                "key_storage": chosen.key_store,
                "policy_version": workspace.policies.current.version[:16],
            },
        )
        if self._stale:
            workspace.log.append(Event.DAEMON_RECOVERED, detail={"stale_mount": True})
        workspace.log.append(
            Event.WORKSPACE_UP,
            detail={"mountpoint": chosen.mountpoint, "adapter": chosen.adapter, "ask": chosen.ask},
        )

    async def _until_unmounted(self, mount: kernel.Mount) -> None:
        await mount.serve()
        self._stopping.set()

    async def _until_signalled(self, signals: AsyncIterator[int]) -> None:
        async for _signal in signals:
            self._stopping.set()

    async def _guard(self, task: Callable[[], Awaitable[None]]) -> None:
        """A task that expires grants or follows policy must not end in silence: where it fails,
        the daemon stops serving (promise 10)."""
        try:
            await task()
        except Exception:
            log.exception("a guarding task failed; the workspace stops")
            self._stopping.set()


def _redirect(folder: Path) -> None:
    """From here on standard output and error are the daemon's log in the state folder."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    fd = os.open(folder / LOG_NAME, flags, 0o600)
    os.dup2(fd, 2)
    os.close(fd)
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )


def _ready_line(reply: dict[str, Any]) -> None:
    """Answer whoever started us, once; afterwards the pipe is no longer ours."""
    line = json.dumps(reply).encode() + b"\n"
    with suppress(BrokenPipeError):
        os.write(1, line)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)


def serve(start: messages.StartUp) -> None:
    """Open or make the workspace and serve it. Raises GrantfsError; nothing half made is left."""
    places = Places.from_environment()
    make_private(places.state)
    folder = places.workspace(start.name)
    new = not (folder / settings.FILE_NAME).exists()
    if new and folder.exists():
        raise GrantfsError(f"{folder} is there but holds no workspace: move it away")
    chosen = create_state(folder, start, places) if new else settings.load(folder)
    chosen = with_start(chosen, start)
    made_mountpoint = False
    workspace: Workspace | None = None
    served = False

    def ready(reply: dict[str, Any]) -> None:
        nonlocal served
        chosen.save(folder)
        served = True
        _ready_line(reply)

    try:
        lock_fd = lock(folder)
        _redirect(folder)
        Reserve(folder).release_if_full()
        check_fuse(chosen.adapter)
        stale = unmount_stale(chosen.mountpoint)
        check_mountpoint(chosen.mountpoint, [places.state, places.runtime])
        made_mountpoint = prepare_mountpoint(chosen.mountpoint)
        try:
            workspace = Workspace(folder, places, chosen, new=new)
        except (PackError, PolicyError, RuleError, ScanError) as error:
            raise GrantfsError(f"{error}; mend it and try again") from error
        daemon = Daemon(workspace, start, stale)
        _run(daemon, ready)
    finally:
        if workspace is not None:
            if served:
                workspace.log.append(Event.DAEMON_STOP)
            workspace.close()
        if made_mountpoint or chosen.mountpoint == str(places.mounts / chosen.name):
            with suppress(OSError):
                os.rmdir(chosen.mountpoint)
        if new and not served:
            keystore.remove(folder, chosen.id, chosen.key_store)
            shutil.rmtree(folder, ignore_errors=True)
    os.close(lock_fd)


def _run(daemon: Daemon, ready: Callable[[dict[str, Any]], None]) -> None:
    try:
        trio.run(daemon.run, ready)
    except BaseExceptionGroup as group:
        raise _first(group) from group


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def main() -> int:
    """Entry of the process; the exit code is for nobody but a foreground `up`."""
    try:
        harden()
        line = sys.stdin.buffer.readline(messages.MAX_REQUEST_BYTES)
        serve(messages.parse_start(line))
    except GrantfsError as error:
        _fail(error.message, error.exit_code)
        return error.exit_code
    except OSError as error:
        _fail(f"cannot start: {error.strerror or error}", 1)
        log.exception("cannot start")
        return 1
    except Exception as error:
        _fail(f"the daemon failed to start: {type(error).__name__}: {error}", 1)
        log.exception("failed")
        return 1
    return 0


def _fail(message: str, code: int) -> None:
    _ready_line({"ok": False, "error": {"message": message, "exit_code": code}})
