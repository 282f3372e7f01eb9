"""Bytes of source files on their way to the agent: read once, scanned, masked, served.

A `SourceContent` is one version of one file. What it returns has been scanned, those very bytes:
small files as one immutable snapshot, larger ones window by window (promise 3). When a scan
fails, the read fails with EIO and the reason goes to the log; plain bytes never leave.
"""

import errno
import hashlib
import hmac
import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from vfs.blocking import Blocked
from vfs.statx import Stat, stat_fd

log = logging.getLogger(__name__)

INLINE_BYTES = 128 * 1024
"""Files up to this size are scanned at once (well under a millisecond); larger ones in a worker
thread, so that nobody else's request waits for them."""

SNAPSHOT_BYTES = 1024 * 1024
"""Files up to this size are served from one snapshot, larger ones by blocks."""

HEAD_BYTES = 512
"""By these first bytes a container is known."""

_COPY_STEP = 1024 * 1024
_ZEROS = bytes(_COPY_STEP)


class Snapshot(Protocol):
    """A masked file in memory."""

    @property
    def data(self) -> bytes:
        """The masked bytes."""

    @property
    def findings(self) -> tuple[object, ...]:
        """What was masked."""


class BlockReader(Protocol):
    """Masked reading of a large file, safe to use from worker threads."""

    def read(self, offset: int, size: int) -> bytes:
        """Masked bytes of this range, fewer at the end of the file."""

    def ready(self, offset: int, size: int) -> bool:
        """True if `read` of this range would scan nothing."""


class Redactor(Protocol):
    """The redaction engine as the core uses it."""

    @property
    def version(self) -> str:
        """Changes whenever the same bytes might be masked otherwise."""

    def snapshot(self, data: bytes, profile: str = ...) -> Snapshot:
        """Scan and mask a whole small file. Raises on failure."""

    def reader(
        self, read: Callable[[int, int], bytes], size: int, profile: str = ...
    ) -> BlockReader:
        """A masked view of a large file."""

    def holds_finding(self, text: bytes, profile: str = ...) -> bool:
        """True if a name or link target would be masked; teaches nothing. Raises on failure."""

    def container(self, head: bytes, profile: str = ...) -> bool:
        """True for the beginning of a file that cannot be masked in place."""

    def look_into(
        self, read: Callable[[int, int], bytes], size: int, profile: str = ...
    ) -> frozenset[str]:
        """Labels for what such a file holds, none if nothing speaks against it. Raises on
        failure."""


@dataclass(frozen=True, slots=True)
class Shown:
    """A version of a file that was served, the profile and rules that masked it, and what was said
    of its contents (None: it was not looked into)."""

    version: Stat
    rules: str
    labels: frozenset[str] | None


def _read_all(fd: int, size: int) -> bytes:
    """The file's bytes from start to end, whatever its size has become.

    Raises OSError(EIO) if it has outgrown a snapshot: a cut through a secret would hide its end
    from the scan.
    """
    parts = []
    at = 0
    while part := os.pread(fd, max(size - at, 0) + 1, at):
        parts.append(part)
        at += len(part)
        if at > 2 * SNAPSHOT_BYTES:
            raise OSError(errno.EIO, "file grew while it was read")
    return b"".join(parts)


class SourceContent:
    """One version of a source file, open for reading.

    `rules` names profile and rules' version. Owned by the core's task; its jobs run in worker
    threads. `close` once nobody reads it.
    """

    def __init__(
        self, fd: int, version: Stat, redactor: Redactor, profile: str, rules: str
    ) -> None:
        self.fd = fd
        self.version = version
        self._redactor = redactor
        self._profile = profile
        self._rules = rules
        self._snapshot: Snapshot | None = None
        self._reader: BlockReader | None = None
        self._labels: frozenset[str] | None = None
        self._snapshot_lock = threading.Lock()
        self._jobs_lock = threading.Lock()
        self._jobs = 0
        self._closed = False

    def close(self) -> None:
        """Close the descriptor and let the masked bytes go, once no job is reading from it: its
        number would soon stand for another file."""
        with self._jobs_lock:
            self._closed = True
            idle = self._jobs == 0
        if idle:
            self._release()

    def _release(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    @contextmanager
    def _job(self) -> Iterator[None]:
        with self._jobs_lock:
            if self._closed:
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            self._jobs += 1
        try:
            yield
        finally:
            with self._jobs_lock:
                self._jobs -= 1
                last = self._closed and self._jobs == 0
            if last:
                self._release()

    @property
    def shown(self) -> Shown:
        """What was served, to be compared and recalled when the content itself was let go of."""
        return Shown(self.version, self._rules, self._labels)

    def shows(self, shown: Shown | None) -> bool:
        """True if what was served as this is what is served now."""
        if shown is None or shown.rules != self._rules:
            return False
        return self.version.same_version(shown.version)

    def recall(self, shown: Shown | None) -> None:
        """Need not be looked into again if it was, as this very version."""
        if shown is not None and self.shows(shown):
            self._labels = shown.labels

    def fresh(self, rules: str) -> bool:
        """True if the open file is still the version that was, or will be, served, under the
        same profile and rules."""
        return self._rules == rules and stat_fd(self.fd).same_version(self.version)

    @property
    def masked(self) -> int:
        """Number of findings masked so far."""
        return len(self._snapshot.findings) if self._snapshot else 0

    def labels(self) -> frozenset[str]:
        """What policy has to know of a file that cannot be masked in place. Raises Blocked while
        it has to be looked into, OSError(EIO) where that failed."""
        if self._labels is None:
            if self._redactor.container(os.pread(self.fd, HEAD_BYTES, 0), self._profile):
                raise Blocked(self._look_into)
            self._labels = frozenset()
        return self._labels

    def _look_into(self) -> None:
        with self._job():
            try:
                labels = self._redactor.look_into(
                    lambda offset, size: os.pread(self.fd, size, offset),
                    self.version.size,
                    self._profile,
                )
            except OSError:
                raise
            except Exception as error:
                raise self._scan_failed(error) from error
            if not stat_fd(self.fd).same_version(self.version):
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            self._labels = labels

    def _scan_failed(self, error: Exception) -> OSError:
        log.error("scan failed, read refused: %s", error)
        return OSError(errno.EIO, os.strerror(errno.EIO))

    def _take_snapshot(self) -> Snapshot:
        with self._snapshot_lock:
            if self._snapshot is None:
                data = _read_all(self.fd, self.version.size)
                try:
                    self._snapshot = self._redactor.snapshot(data, self._profile)
                except OSError:
                    raise
                except Exception as error:
                    raise self._scan_failed(error) from error
            return self._snapshot

    def _block_reader(self) -> BlockReader:
        if self._reader is None:
            self._reader = self._redactor.reader(
                lambda offset, size: os.pread(self.fd, size, offset),
                self.version.size,
                self._profile,
            )
        return self._reader

    def _read_blocks(self, offset: int, size: int) -> bytes:
        try:
            return self._block_reader().read(offset, size)
        except OSError:
            raise
        except Exception as error:
            raise self._scan_failed(error) from error

    def read(self, offset: int, size: int) -> bytes:
        """Masked bytes of a range, fewer at the end. Raises Blocked while a scan has to be made
        in a worker thread, OSError(EIO) where it failed."""
        if self.version.size <= SNAPSHOT_BYTES:
            if self._snapshot is None and self.version.size > INLINE_BYTES:
                raise Blocked(self._run_snapshot)
            return self._take_snapshot().data[offset : offset + size]
        if offset >= self.version.size:
            return b""
        if not self._block_reader().ready(offset, size):
            raise Blocked(lambda: self._run_blocks(offset, size))
        return self._read_blocks(offset, size)

    def _run_snapshot(self) -> None:
        with self._job():
            self._take_snapshot()

    def _run_blocks(self, offset: int, size: int) -> None:
        with self._job():
            self._read_blocks(offset, size)

    def copy_masked(self, target: int | None, key: bytes) -> bytes:
        """Write the masked bytes of the whole file to descriptor *target* (None: nowhere), and
        return the HMAC of its own bytes. For worker threads.

        Raises OSError(ESTALE) if the file changed meanwhile: what was copied is then no version.
        """
        with self._job():
            return self._copy_masked(target, key)

    def _copy_masked(self, target: int | None, key: bytes) -> bytes:
        digest = hmac.new(key, digestmod=hashlib.sha256)
        if self.version.size <= SNAPSHOT_BYTES:
            raw = _read_all(self.fd, self.version.size)
            digest.update(raw)
            if target is not None:
                _write_all(target, self._masked_whole(raw), 0)
        else:
            at = 0
            while at < self.version.size:
                raw = os.pread(self.fd, _COPY_STEP, at)
                if not raw:
                    break
                digest.update(raw)
                if target is not None:
                    masked = self._read_blocks(at, len(raw))
                    if masked != _ZEROS:  # holes stay holes
                        _write_all(target, masked, at)
                at += len(raw)
            if target is not None:
                os.ftruncate(target, at)
        if not stat_fd(self.fd).same_version(self.version):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return digest.digest()

    def _masked_whole(self, raw: bytes) -> bytes:
        try:
            return self._redactor.snapshot(raw, self._profile).data
        except OSError:
            raise
        except Exception as error:
            raise self._scan_failed(error) from error


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, offset)
        view = view[done:]
        offset += done
