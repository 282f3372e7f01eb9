"""One file's difference in the form that ``git diff`` prints and ``git apply`` takes.

Promises: ``git apply`` makes of the old tree the new one, with names, modes, links and (in binary
form) bytes; no name or content can pass for another line of the patch. Pure functions; any task or
thread may call them. A binary patch holds git's ids of the bytes: hand in masked bytes only.
"""

from __future__ import annotations

import base64
import hashlib
import re
import stat
import zlib
from collections import Counter
from dataclasses import dataclass

from gateway.review.hunks import hunks, is_binary
from gateway.review.lines import common_edges

_NO_BLOB = b"0" * 40
_BINARY_LINE = 52
_CHUNK = 64
_LARGE = 4 << 20

_ODD = re.compile(rb"[^ !#-\[\]-~]")
_SHORT_ESCAPES = {
    b"\a": b"\\a",
    b"\b": b"\\b",
    b"\t": b"\\t",
    b"\n": b"\\n",
    b"\v": b"\\v",
    b"\f": b"\\f",
    b"\r": b"\\r",
    b'"': b'\\"',
    b"\\": b"\\\\",
}


@dataclass(frozen=True, slots=True)
class Side:
    """What stands under a name before or after: ``mode`` as in ``st_mode``, and the file's bytes
    or the link's target."""

    mode: int
    data: bytes

    @property
    def git_mode(self) -> int:
        """The mode as git keeps it: a link, an executable file or another file.

        Raises `ValueError` for what git does not keep (folders, devices, pipes, sockets).
        """
        if stat.S_ISLNK(self.mode):
            return 0o120000
        if stat.S_ISREG(self.mode):
            return 0o100755 if self.mode & stat.S_IXUSR else 0o100644
        raise ValueError(f"a patch cannot hold a file of type {stat.S_IFMT(self.mode):o}")


def file_patch(
    path: bytes,
    old_path: bytes | None,
    old: Side | None,
    new: Side | None,
    *,
    binary: bool = False,
    context: int = 3,
) -> bytes:
    """The patch of one file, empty if nothing changed that git keeps.

    ``path`` is the name after the change (of a deleted file, its name before), ``old_path`` the
    name before if it was another one; both relative. ``old`` is ``None`` for an added file,
    ``new`` for a deleted one. Binary files are only named as different, unless ``binary`` asks for
    a patch with their bytes. A change between file and link is a deletion and an addition.

    Raises `ValueError` for a name that cannot stand in a patch or a type that git does not keep.
    """
    source = old_path if old_path is not None and old and new else path
    for name in (path, source):
        if not name or name.startswith(b"/") or b"\0" in name:
            raise ValueError(f"no name for a patch: {name!r}")
    if old and new and stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        return file_patch(source, None, old, None, binary=binary, context=context) + file_patch(
            path, None, None, new, binary=binary, context=context
        )
    header = _header(path, source, old, new)
    body = _body(path, source, old, new, binary, context)
    if not header and not body:
        return b""
    names = quote_name(source, b"a/") + b" " + quote_name(path, b"b/")
    return b"diff --git " + names + b"\n" + header + body


def quote_name(name: bytes, prefix: bytes = b"") -> bytes:
    """``prefix + name``, in double quotes with C escapes where git would (``core.quotePath``).

    The result is printable ASCII.
    """
    whole = prefix + name
    if not _ODD.search(whole):
        return whole
    return b'"' + _ODD.sub(_escape, whole) + b'"'


def similarity(old: bytes, new: bytes) -> int:
    """How much of the larger of two files is in the other too, in percent.

    100 means equal. Lines are compared, and of long lines pieces; of files over 4 MiB only how
    they begin and end.
    """
    if old == new:
        return 100
    size = max(len(old), len(new))
    if size > _LARGE:
        shared = sum(common_edges(old, new))
    else:
        both = _pieces(old) & _pieces(new)
        shared = sum(len(piece) * count for piece, count in both.items())
    return min(shared * 100 // size, 99)


def _header(path: bytes, source: bytes, old: Side | None, new: Side | None) -> bytes:
    """The lines on existence, mode and name."""
    header = b""
    if old is None or new is None:
        if new:
            header += b"new file mode %o\n" % new.git_mode
        if old:
            header += b"deleted file mode %o\n" % old.git_mode
        return header
    if old.git_mode != new.git_mode:
        header += b"old mode %o\nnew mode %o\n" % (old.git_mode, new.git_mode)
    if source != path:
        header += b"similarity index %d%%\n" % similarity(old.data, new.data)
        header += b"rename from " + quote_name(source) + b"\n"
        header += b"rename to " + quote_name(path) + b"\n"
    return header


def _body(
    path: bytes, source: bytes, old: Side | None, new: Side | None, binary: bool, context: int
) -> bytes:
    """The lines on content; empty if it is the same."""
    before = old.data if old else b""
    after = new.data if new else b""
    if before == after:
        return b""
    old_name = quote_name(source, b"a/") if old else b"/dev/null"
    new_name = quote_name(path, b"b/") if new else b"/dev/null"
    if is_binary(before) or is_binary(after):
        if binary:
            return _binary_body(old, new)
        return b"Binary files " + old_name + b" and " + new_name + b" differ\n"
    lines = [b"--- " + _tabbed(old_name), b"+++ " + _tabbed(new_name)]
    for hunk in hunks(before, after, context):
        lines.append(hunk.header.encode() + b"\n")
        lines += hunk.lines
    return b"".join(lines)


def _tabbed(name: bytes) -> bytes:
    # A tab ends the name, where other tools would take a space for the end.
    return name + (b"\t\n" if b" " in name else b"\n")


def _binary_body(old: Side | None, new: Side | None) -> bytes:
    """Both contents in full, so that the patch can be applied in either direction."""
    ids = _blob_id(old) + b".." + _blob_id(new)
    mode = b""
    if old and new and old.git_mode == new.git_mode:
        mode = b" %o" % old.git_mode
    literals = _literal(new.data if new else b"") + _literal(old.data if old else b"")
    return b"index " + ids + mode + b"\nGIT binary patch\n" + literals


def _blob_id(side: Side | None) -> bytes:
    # git apply takes a binary patch only if the file that it finds has the id named here.
    if side is None:
        return _NO_BLOB
    blob = hashlib.sha1(b"blob %d\0" % len(side.data), usedforsecurity=False)
    blob.update(side.data)
    return blob.hexdigest().encode()


def _literal(data: bytes) -> bytes:
    """``data`` deflated, in lines of base 85 that each start with a letter for their length."""
    packed = zlib.compress(data)
    lines = [b"literal %d\n" % len(data)]
    for start in range(0, len(packed), _BINARY_LINE):
        piece = packed[start : start + _BINARY_LINE]
        letter = len(piece) + (ord("A") - 1 if len(piece) <= 26 else ord("a") - 27)
        lines.append(bytes([letter]) + base64.b85encode(piece, pad=True) + b"\n")
    lines.append(b"\n")
    return b"".join(lines)


def _escape(match: re.Match[bytes]) -> bytes:
    byte = match.group()
    return _SHORT_ESCAPES.get(byte) or b"\\%03o" % byte[0]


def _pieces(data: bytes) -> Counter[bytes]:
    pieces: list[bytes] = []
    for line in data.split(b"\n"):
        if len(line) < _CHUNK:
            pieces.append(line + b"\n")
        else:
            pieces += (line[n : n + _CHUNK] for n in range(0, len(line), _CHUNK))
    return Counter(pieces)
