"""The client's end of the control socket. Standard library only: it is on every command's path."""

import json
import os
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from gateway.errors import GrantfsError, NotRunningError

CONNECT_SECONDS = 5.0

_PART = b'{"part":'


class Reply:
    """A daemon's answer: its result and what it wants the user told."""

    def __init__(self, result: Any, notes: list[str]) -> None:
        self.result = result
        self.notes = notes


def _connect(path: Path) -> socket.socket:
    # Through a descriptor of the folder: a socket's own path may have no more than 107 bytes.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(f"/proc/self/fd/{folder}/{path.name}")
            connection.settimeout(None)
        except BaseException:
            connection.close()
            raise
        return connection
    finally:
        os.close(folder)


def is_running(path: Path) -> bool:
    """True if a daemon answers at this socket."""
    try:
        _connect(path).close()
    except OSError:
        return False
    return True


def daemon_pid(path: Path) -> int | None:
    """Pid of the daemon that listens at this socket, by the kernel's word; None if none does."""
    try:
        connection = _connect(path)
    except OSError:
        return None
    with connection:
        raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid: int = struct.unpack("3i", raw)[0]
    return pid


def call(
    path: Path,
    workspace: str,
    op: str,
    *,
    patience: float | None = None,
    take: Callable[[Any], None] | None = None,
    **fields: Any,
) -> Reply:
    """Send one request to a workspace's daemon and wait for the answer, at most *patience*
    seconds (None: as long as it takes; a commit may). *take* gets the parts that some answers
    come in before their end.

    Raises NotRunningError where none listens, and the daemon's own error with its exit code.
    """
    try:
        connection = _connect(path)
    except OSError:
        raise NotRunningError(
            f"workspace {workspace!r} is not running: start it with `grantfs up --name {workspace}`"
        ) from None
    request = json.dumps({"op": op, **fields}).encode() + b"\n"
    connection.settimeout(patience)
    with connection, connection.makefile("rb") as replies:
        try:
            # A daemon that refuses us answers and closes without having read all of it.
            with suppress(BrokenPipeError):
                connection.sendall(request)
            line = replies.readline()
            while line.startswith(_PART):
                if take is not None:
                    take(json.loads(line)["part"])
                line = replies.readline()
        except OSError as error:
            raise GrantfsError(
                f"the daemon of {workspace!r} went away: {error.strerror or error}"
            ) from error
    if not line:
        raise GrantfsError(f"the daemon of {workspace!r} went away without an answer; see its log")
    answer = json.loads(line)
    if answer.get("ok"):
        return Reply(answer.get("result"), answer.get("notes", []))
    failure = answer.get("error", {})
    raise GrantfsError(failure.get("message", "the daemon failed"), failure.get("exit_code"))
