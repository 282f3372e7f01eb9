"""The mount through mfusepy, with the interface of `vfs.fuse.FuseMount`.

Nothing is cached that would have to be taken back: names and attributes are asked for each time,
and files are opened for direct I/O, so that every read and write reaches the core and is admitted
there. Ending a grant therefore acts at the next call. What that costs stands in docs/windows.md.

Importing this module raises `ShimUnavailable` where mfusepy or its FUSE library is missing.
"""

import contextlib
import errno
import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from typing import Any, TypeVar

import trio

from vfs.attributes import Caller
from vfs.filesystem import Filesystem
from winfsp_shim.adapter import Adapter
from winfsp_shim.library import mfusepy
from winfsp_shim.system import PRESENT, System, decode

log = logging.getLogger(__name__)

T = TypeVar("T")

_UTIME_NOW = (1 << 30) - 1
_UTIME_OMIT = (1 << 30) - 2
"""Nanoseconds that mean "now" and "as it is" (utimensat(2))."""

_AGAIN = 0.5
"""Seconds between requests that tell the loop to end; nearly always the first is enough."""

_PATIENCE = 10.0
"""Seconds that `close` gives the loop to end. Only a request that never ends takes longer."""


def _gone() -> OSError:
    return OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))


def _path(path: bytes | None) -> str | None:
    return None if path is None else decode(path)


def _handle(info: Any) -> int | None:
    return info.contents.fh if info else None


def _time_ns(spec: Any) -> int | None:
    if spec.tv_nsec == _UTIME_OMIT:
        return None
    if spec.tv_nsec == _UTIME_NOW:
        return time.time_ns()
    return int(spec.tv_sec * 10**9 + spec.tv_nsec)


class _Fuse(mfusepy.FUSE):  # type: ignore[misc, name-defined]
    """mfusepy 3.1 loses what libfuse 3 passes beyond libfuse 2: the flags of a rename, the handle
    of an open file, and the marks for "now" and "as it is" in a pair of times."""

    operations: Adapter

    def rename_fuse_3(self, old: bytes, new: bytes, flags: int) -> None:
        self.operations.rename(decode(old), decode(new), flags)

    def chmod_fuse_3(self, path: bytes | None, mode: int, info: Any) -> None:
        self.operations.chmod(_path(path), mode, _handle(info))

    def chown_fuse_3(self, path: bytes | None, uid: int, gid: int, info: Any) -> None:
        none = (1 << 32) - 1
        self.operations.chown(
            _path(path), -1 if uid == none else uid, -1 if gid == none else gid, _handle(info)
        )

    def truncate_fuse_3(self, path: bytes | None, length: int, info: Any) -> None:
        self.operations.truncate(_path(path), length, _handle(info))

    def utimens_fuse_3(self, path: bytes | None, pair: Any, info: Any) -> None:
        times = None
        if pair:
            times = (_time_ns(pair.contents.actime), _time_ns(pair.contents.modtime))
        self.operations.utimens(_path(path), times, _handle(info))


def _caller() -> Caller:
    # The kernel (or WinFsp) has applied the umask to the modes that it sends.
    return Caller(*mfusepy.fuse_get_context())


class ShimMount:
    """The mount of one workspace. `open` mounts, `serve` answers until `stop`, `close` unmounts.

    `mountpoint` is an absolute path, on Windows also a drive letter with its colon. `open` starts
    threads, so nothing may fork between it and `close`. libfuse takes SIGTERM, SIGINT and SIGHUP
    for itself where they are at their default: handle them before `open`.
    """

    def __init__(
        self,
        filesystem: Filesystem,
        mountpoint: str,
        *,
        allow_other: bool,
        system: System = PRESENT,
    ) -> None:
        self._mountpoint = mountpoint
        self._options = dict(system.options)
        if (mfusepy.fuse_version_major, mfusepy.fuse_version_minor) < (3, 12):
            self._options.pop("max_threads", None)  # unknown to it, and unlimited in it
        if allow_other:
            self._options["allow_other"] = True
        self._adapter = Adapter(filesystem, self._on_core, _caller, system)
        self._adapter.init_with_config = self._started  # type: ignore[attr-defined]
        self._core: Future[trio.lowlevel.TrioToken] = Future()
        self._mounted: Future[None] = Future()
        self._ending = threading.Event()
        self._told = threading.Event()
        self._ended = threading.Event()
        self._waiting: set[Future[Any]] = set()
        self._loop: threading.Thread | None = None

    # -- the library's threads -------------------------------------------------------------

    def _started(self, _connection: object, _config: object) -> None:
        self._mounted.set_result(None)

    def _serve_kernel(self) -> None:
        try:
            _Fuse(self._adapter, self._mountpoint, foreground=True, **self._options)
        except Exception as error:
            if self._mounted.done():
                log.exception("the FUSE loop failed")
            else:
                self._mounted.set_exception(
                    RuntimeError(f"cannot mount at {self._mountpoint} (step {error})")
                )
        finally:
            self._ended.set()

    def _on_core(self, function: Callable[[], T], /) -> T:
        """Have the core's task run a function, unless the mount ends before it could."""
        answer: Future[T] = Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(function())
                except BaseException as error:
                    answer.set_exception(error)  # for the thread that asked, not for the loop

        self._waiting.add(answer)
        try:
            if self._ending.is_set():
                # Only from inside a request can the library be told to end.
                self._told.set()
                mfusepy.fuse_exit()
                raise _gone()
            self._core.result().run_sync_soon(run)
            return answer.result()
        except (trio.RunFinishedError, CancelledError) as error:
            raise _gone() from error
        finally:
            self._waiting.discard(answer)

    def _end(self) -> None:
        """Make the library's loop end, by a request of our own that tells it so."""
        while not self._ended.is_set():
            with contextlib.suppress(OSError):
                os.stat(self._mountpoint)
            if not self._told.is_set() and not self._ended.is_set():
                # Detached or covered, so that no request of ours arrives; any other is answered
                # as above, and the loop ends with it or with the last open file.
                log.warning("the mount at %s is out of reach", self._mountpoint)
                self._ended.set()
            # A libfuse worker that is one too many goes without a word of what it was told.
            self._ended.wait(_AGAIN)

    # -- the interface ---------------------------------------------------------------------

    def open(self) -> None:
        """Mount. Raises RuntimeError where the kernel, fusermount3 or WinFsp refuses.

        Requests wait for `serve`.
        """
        try:
            folder = os.getcwd()
        except FileNotFoundError:
            folder = None
        self._loop = threading.Thread(target=self._serve_kernel, name="fuse", daemon=True)
        self._loop.start()
        self._mounted.result()
        if folder is not None:
            os.chdir(folder)  # libfuse has gone to the root

    async def serve(self) -> None:
        """Answer the kernel until unmounted or stopped; the task's loop is the core's."""
        if not self._core.done():  # by `close`
            self._core.set_result(trio.lowlevel.current_trio_token())
        await trio.to_thread.run_sync(self._ended.wait, abandon_on_cancel=True)

    def stop(self) -> None:
        """Let `serve` return; to be called on the loop."""
        if not self._ending.is_set():
            self._ending.set()
            threading.Thread(target=self._end, name="fuse end", daemon=True).start()

    def close(self) -> None:
        """Unmount, in whatever state. It waits for what is under way in the library's threads;
        requests that wait for the core are refused, since this may be called on its loop."""
        if self._loop is None:
            return
        if not self._core.done():
            self._core.set_exception(_gone())
        self.stop()
        for answer in self._waiting.copy():
            answer.cancel()
        self._loop.join(_PATIENCE)
        if self._loop.is_alive():
            log.error("the mount at %s did not end", self._mountpoint)

    def invalidate_inode(self, ino: int) -> None:
        """Does nothing: the kernel is never allowed to keep attributes or pages of a node."""

    def invalidate_entry(self, parent: int, name: bytes) -> None:
        """Does nothing: the kernel looks every name up anew."""
