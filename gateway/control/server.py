"""The daemon's end of the control socket.

The owner's uid alone is served, by the kernel's word (SO_PEERCRED), and nobody whose program
stands in another pid or mount namespace: an agent in a sandbox has no voice here (promise 11).
Every message is validated before anything is done.
"""

import json
import logging
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from gateway.control.messages import MAX_REQUEST_BYTES, Request, parse
from gateway.errors import GrantfsError, RefusedError

log = logging.getLogger(__name__)

_NAMESPACES = ("pid", "mnt", "user")
_CONNECTIONS = 64

Send = Callable[[Any], Awaitable[None]]
Handler = Callable[[Request, Send], Awaitable[tuple[Any, list[str]]]]


def bind(path: Path) -> socket.socket:
    """Make the listening socket, 0600, in place of one that a dead daemon left."""
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        path.unlink(missing_ok=True)
        mask = os.umask(0o177)
        try:
            listener.bind(short)
        finally:
            os.umask(mask)
        listener.listen(_CONNECTIONS)
        return listener
    finally:
        os.close(folder)


def _namespaces(pid: int) -> list[str]:
    return [os.readlink(f"/proc/{pid}/ns/{name}") for name in _NAMESPACES]


def check_peer(connection: socket.socket) -> None:
    """Refuse whoever is not the owner's, or stands in other namespaces. Raises RefusedError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    pid, uid, _gid = struct.unpack("3i", raw)
    if uid != os.getuid():
        raise RefusedError("this workspace belongs to another user")
    try:
        theirs = _namespaces(pid)
    except FileNotFoundError:
        raise RefusedError("the asking process is gone or out of sight") from None
    except PermissionError:
        # An unprivileged owner cannot look at a set-id or non-dumpable process of its own uid.
        raise RefusedError("the asking process cannot be looked at") from None
    if theirs != _namespaces(os.getpid()):
        raise RefusedError("requests from inside a sandbox are not taken")


async def _read_line(stream: trio.SocketStream) -> bytes:
    buffer = bytearray()
    while b"\n" not in buffer:
        part = await stream.receive_some(65536)
        if not part:
            break
        buffer += part
        if len(buffer) > MAX_REQUEST_BYTES:
            raise GrantfsError("bad request: too long")
    return bytes(buffer.partition(b"\n")[0])


async def _answer(connection: trio.SocketStream, handler: Handler) -> None:
    reply: dict[str, Any]

    async def send(part: Any) -> None:
        await connection.send_all(json.dumps({"part": part}).encode() + b"\n")

    try:
        check_peer(connection.socket._sock)  # type: ignore[attr-defined]
        with trio.fail_after(30):
            line = await _read_line(connection)
        result, notes = await handler(parse(line), send)
        reply = {"ok": True, "result": result, "notes": notes}
    except GrantfsError as error:
        reply = {"ok": False, "error": {"message": error.message, "exit_code": error.exit_code}}
    except (trio.TooSlowError, trio.BrokenResourceError):
        return
    except OSError as error:
        text = f"{error.strerror or error}: the disk or a source refused"
        reply = {"ok": False, "error": {"message": text, "exit_code": 1}}
    except Exception as error:
        log.exception("a control request failed")
        text = f"the daemon failed ({type(error).__name__}); its log has more"
        reply = {"ok": False, "error": {"message": text, "exit_code": 1}}
    try:
        await connection.send_all(json.dumps(reply).encode() + b"\n")
    except trio.BrokenResourceError:
        return  # the client went away; what it asked for is done all the same


async def serve(listener: socket.socket, handler: Handler) -> None:
    """Serve until cancelled. Whatever a client does, the daemon goes on."""
    accepting = trio.socket.from_stdlib_socket(listener)
    limit = trio.CapacityLimiter(_CONNECTIONS)

    async def one(connection: trio.SocketStream) -> None:
        async with limit, connection:
            await _answer(connection, handler)

    async with trio.open_nursery() as nursery:
        while True:
            accepted, _address = await accepting.accept()
            nursery.start_soon(one, trio.SocketStream(accepted))
