"""The daemon's process: hardened, started by `up`, ready when the mount answers, stopped by
SIGTERM, `down` or an unmount.

It reads one start-up message from standard input, answers on standard output with one line once
it serves (or with the reason why it cannot), and then owns neither.
"""

import ctypes
import errno
import fcntl
import json
import logging
import os
import resource
import secrets
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import trio

from gateway import clock, settings
from gateway.audit.events import Event
from gateway.authority import keys as keystore
from gateway.control import messages, server
from gateway.daemon import agent_files, kernel, sources
from gateway.daemon.handlers import Handlers
from gateway.daemon.workspace import Workspace
from gateway.errors import GrantfsError, UsageError
from gateway.places import Places, make_private
from gateway.settings import Settings
from policies.parse import PolicyError
from vfs.redaction import RuleError, ScanError

log = logging.getLogger(__name__)

LOG_NAME = "daemon.log"
_PR_SET_DUMPABLE = 4
_MNT_DETACH = 2


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


# -- before anything is served -------------------------------------------------------------


def _create(folder: Path, start: messages.StartUp, places: Places) -> Settings:
    """Make a new workspace's state, whole or not at all."""
    folder.mkdir(mode=0o700)
    try:
        identity = secrets.token_hex(16)
        keys = keystore.create(folder, identity)
        public = keys.signing.public_key().public_bytes_raw().hex()
        chosen = Settings(
            id=identity,
            name=start.name,
            mountpoint=start.mountpoint or str(places.mounts / start.name),
            created_at=clock.now(),
            key_store=keys.store,
            public_key=public,
        )
        chosen.save(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return chosen


def _with_start(chosen: Settings, start: messages.StartUp) -> Settings:
    changes: dict[str, object] = {}
    if start.mountpoint is not None:
        changes["mountpoint"] = start.mountpoint
    if start.adapter is not None:
        changes["adapter"] = start.adapter
    if start.agent_user is not None:
        changes["agent_user"] = start.agent_user
    if start.ask is not None:
        changes["ask"] = start.ask
    if start.ask_timeout is not None:
        changes["ask_timeout"] = start.ask_timeout
    return chosen.with_changes(**changes)


def lock(folder: Path) -> int:
    """Take the workspace for this process. Raises GrantfsError if another has it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise GrantfsError(
            f"workspace {folder.name!r} is in use by another daemon: wait for it, or stop it with"
            f" `grantfs down --name {folder.name} --force`"
        ) from error
    return fd


def unmount_stale(mountpoint: str) -> bool:
    """Remove the mount that a dead daemon left. The caller holds the workspace's lock."""
    if os.fsencode(mountpoint) not in sources.grantfs_mounts():
        return False
    if os.getuid() == 0:
        if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(mountpoint), _MNT_DETACH):
            number = ctypes.get_errno()
            raise GrantfsError(f"cannot unmount the dead {mountpoint}: {os.strerror(number)}")
        return True
    command = ["fusermount3", "-u", "-z", "--", mountpoint]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise GrantfsError(
            f"cannot unmount the dead {mountpoint}: {done.stderr.decode(errors='replace').strip()}"
        )
    return True


def prepare_mountpoint(mountpoint: str) -> bool:
    """Make sure that there is an empty folder to mount on; True if it was made here.

    Raises GrantfsError, UsageError.
    """
    if not os.path.isabs(mountpoint):
        raise UsageError(f"the mountpoint {mountpoint} must be an absolute path")
    path = Path(mountpoint)
    try:
        path.mkdir(mode=0o700, parents=True)
        return True
    except FileExistsError:
        pass
    except OSError as error:
        raise GrantfsError(
            f"cannot make the mountpoint {mountpoint}: {error.strerror}; name another with --mount"
        ) from error
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is no folder: name another with --mount"
            )
        if os.path.ismount(mountpoint):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is busy: something is mounted there; unmount it or"
                " name another with --mount"
            )
        if os.listdir(mountpoint):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is not empty: empty it or name another with --mount"
            )
    except OSError as error:
        raise GrantfsError(f"cannot use the mountpoint {mountpoint}: {error.strerror}") from error
    return False


def check_fuse(adapter: str) -> None:
    """Raise GrantfsError, with what to do, where this machine cannot mount."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        what = "load it with `modprobe fuse`" if error.errno == errno.ENOENT else "open it to you"
        raise GrantfsError(
            f"cannot mount: /dev/fuse: {error.strerror}; {what} (`grantfs doctor` knows more)"
        ) from error
    if os.getuid() and shutil.which("fusermount3") is None:
        raise GrantfsError("cannot mount: fusermount3 is missing; install the package fuse3")


def make_mount(workspace: Workspace) -> kernel.Mount:
    """The mount through the adapter that the workspace asks for. Raises GrantfsError."""
    chosen = workspace.settings
    others = chosen.agent_user is not None
    if chosen.adapter == "mfusepy":
        from winfsp_shim import ShimUnavailable, load

        try:
            shim = load()
        except ShimUnavailable as error:
            raise GrantfsError(f"cannot mount with mfusepy: {error}") from error
        return shim(workspace.fs, chosen.mountpoint, allow_other=others)
    from vfs.fuse import FuseMount

    return FuseMount(workspace.fs, chosen.mountpoint, allow_other=others)


# -- serving -------------------------------------------------------------------------------


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
        try:
            mount.open()
        except (RuntimeError, OSError) as error:
            raise GrantfsError(
                f"cannot mount at {workspace.settings.mountpoint}: {error};"
                " `grantfs doctor` says what is missing"
            ) from error
        workspace.mount = mount
        try:
            await self._serve(mount, ready, notes)
        finally:
            mount.close()

    async def _serve(
        self, mount: kernel.Mount, ready: Callable[[dict[str, Any]], None], notes: list[str]
    ) -> None:
        workspace = self._workspace
        make_private(workspace.places.runtime)
        path = workspace.places.socket(workspace.settings.name)
        listener = server.bind(path)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._until_unmounted, mount)
                nursery.start_soon(self._until_signalled)
                nursery.start_soon(self._guard, workspace.expire)
                nursery.start_soon(self._guard, workspace.watch_policy)
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

    async def _until_signalled(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
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
    chosen = _create(folder, start, places) if new else settings.load(folder)
    chosen = _with_start(chosen, start)
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
        check_fuse(chosen.adapter)
        stale = unmount_stale(chosen.mountpoint)
        made_mountpoint = prepare_mountpoint(chosen.mountpoint)
        sources.check_outside(
            os.fsencode(os.path.realpath(chosen.mountpoint)), [places.state, places.runtime]
        )
        try:
            workspace = Workspace(folder, places, chosen, new=new)
        except (PolicyError, RuleError, ScanError) as error:
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
