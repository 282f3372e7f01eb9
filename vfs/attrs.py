"""Changes of attributes and extended attributes, all of them staged."""

import errno
import stat

from vfs.admission import Admission
from vfs.attributes import Caller, SetAttributes
from vfs.files import Files
from vfs.gate import Gate
from vfs.nodes import Node
from vfs.union import Union, os_error

SOURCE_XATTRS = frozenset({b"user.mime_type", b"user.charset"})
"""Extended attributes of a source that are shown: those that hold a type, never a value of the
user's that no scan has seen."""

XATTRS_BYTES = 64 * 1024
"""Bytes that names and values of one file's extended attributes may have together; ext4 gives
ENOSPC, too, where a file has more than it takes."""


class AttributeChanges:
    """chmod, chown, utimes, truncate and xattrs of one workspace."""

    def __init__(self, union: Union, files: Files, admission: Admission, gate: Gate) -> None:
        self._union = union
        self._tree = union.tree
        self._files = files
        self._admission = admission
        self._gate = gate

    def set(self, node: Node, change: SetAttributes, caller: Caller) -> None:
        """Apply what is not None in *change*. Raises OSError, Blocked."""
        self._admission.use(node, "write", caller)
        self.apply(node, change)
        self._report(node, caller, "truncate" if change.size is not None else "attributes")

    def apply(self, node: Node, change: SetAttributes) -> None:
        """As `set`, for a caller that has been admitted."""
        if change.size is not None:
            if node.kind != stat.S_IFREG:
                raise os_error(errno.EISDIR if node.is_folder else errno.EINVAL)
            self._files.truncate(node, change.size)
        if (change.mode, change.uid, change.gid, change.atime_ns, change.mtime_ns) == (None,) * 5:
            return
        times = self._times(node, change)
        with self._tree.transaction():
            if node.is_folder:
                self._union.keep_folder_base(node)
            inode = self._union.stage(node)
            if change.mode is not None:
                inode.mode = change.mode & 0o7777
            if change.uid is not None:
                inode.uid = change.uid
            if change.gid is not None:
                inode.gid = change.gid
            if inode.body is None and times is not None:
                inode.atime_ns, inode.mtime_ns = times
            self._union.changed(inode)
        if inode.body is not None and times is not None:
            # Last, since no transaction takes it back.
            self._tree.bodies.set_times(inode.body, *times)

    def _times(self, node: Node, change: SetAttributes) -> tuple[int, int] | None:
        """Access and modification time as they are to be, None if neither is to change."""
        if change.atime_ns is None and change.mtime_ns is None:
            return None
        now = self._union.attributes(node)
        return (
            now.atime_ns if change.atime_ns is None else change.atime_ns,
            now.mtime_ns if change.mtime_ns is None else change.mtime_ns,
        )

    def _report(self, node: Node, caller: Caller, op: str) -> None:
        detail = {"action": op}
        self._gate.report("stage", "ok", node.mount_path, caller, node.projection.id, detail)

    # -- extended attributes ---------------------------------------------------------------

    def _source_xattrs(self, node: Node) -> dict[bytes, bytes]:
        if node.origin is None or node.is_folder or node.unlinked:
            return {}
        try:
            return node.projection.source.xattrs(node.origin, SOURCE_XATTRS)
        except OSError:
            return {}

    def all_xattrs(self, node: Node) -> dict[bytes, bytes]:
        """Every extended attribute that the agent may see."""
        shown = self._source_xattrs(node)
        inode = self._union.staged(node)
        for name, value in (inode.xattrs if inode else {}).items():
            if value is None:
                shown.pop(name, None)
            else:
                shown[name] = value
        return shown

    def get_xattr(self, node: Node, name: bytes) -> bytes:
        """One extended attribute. Raises OSError(ENODATA)."""
        self._admission.look(node)
        if name.startswith(b"user."):
            value = self.all_xattrs(node).get(name)
            if value is not None:
                return value
        raise os_error(errno.ENODATA)

    def set_xattr(self, node: Node, name: bytes, value: bytes, caller: Caller) -> None:
        """Stage an extended attribute; only `user.` ones, ENOTSUP for others."""
        self._admission.use(node, "write", caller)
        if not name.startswith(b"user."):
            raise os_error(errno.ENOTSUP)
        if name == b"user.":
            raise os_error(errno.EINVAL)
        self._check_xattr(node, name, value)
        with self._tree.transaction():
            inode = self._union.stage(node)
            self._tree.set_xattr(inode, name, value)
            self._union.changed(inode)
        self._report(node, caller, "xattr")

    def _check_xattr(self, node: Node, name: bytes, value: bytes) -> None:
        """Raise OSError(ENOSPC) where the attributes of a file would outgrow their bound."""
        kept = {known: held for known, held in self.all_xattrs(node).items() if known != name}
        size = sum(len(known) + len(held) for known, held in (*kept.items(), (name, value)))
        if size > XATTRS_BYTES:
            raise os_error(errno.ENOSPC)
        self._tree.quota.check_disk()

    def remove_xattr(self, node: Node, name: bytes, caller: Caller) -> None:
        """Remove an extended attribute. Raises OSError(ENODATA)."""
        self._admission.use(node, "write", caller)
        self.get_xattr(node, name)
        with self._tree.transaction():
            inode = self._union.stage(node)
            if name in self._source_xattrs(node):
                self._tree.set_xattr(inode, name, None)
            else:
                self._tree.forget_xattr(inode, name)
            self._union.changed(inode)
        self._report(node, caller, "xattr")
