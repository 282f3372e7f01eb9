"""Copy-up: the first change of a file's content gives it a body in the stage.

What is copied is what the agent may see, the masked bytes, from one descriptor, and it counts
only if the source did not change meanwhile. The masked copy is kept beside the new body as the
base that review, merge and restoring need; `O_TRUNC` copies nothing into the new body.
"""

import errno
import os
from dataclasses import dataclass

from vfs.blocking import Blocked
from vfs.content import INLINE_BYTES, SourceContent
from vfs.nodes import Node
from vfs.stage.bodies import copy_contents
from vfs.stage.tree import Base, StagedInode
from vfs.union import Union, fingerprint, os_error

_TRIES = 3


@dataclass(slots=True)
class _Prepared:
    """Work done in a worker thread, waiting to be taken by the operation that asked for it."""

    content: SourceContent
    base: Base


class CopyUp:
    """Gives nodes bodies; every method runs on the core's task, its jobs in worker threads."""

    def __init__(self, union: Union, digest_key: bytes) -> None:
        self._union = union
        self._tree = union.tree
        self._key = digest_key
        self._prepared: dict[int, _Prepared] = {}
        self._tries: dict[int, int] = {}

    def _copy_base(self, node: Node, content: SourceContent) -> Base:
        body, fd = self._tree.bodies.create()
        try:
            digest = content.copy_masked(fd, self._key)
            os.utime(fd, ns=(content.version.atime_ns, content.version.mtime_ns))
        except BaseException:
            self._tree.bodies.remove(body)
            raise
        finally:
            os.close(fd)
        return Base(fingerprint(content.version, digest), body)

    def _prepare(self, node: Node, content: SourceContent) -> None:
        try:
            self._prepared[node.ino] = _Prepared(content, self._copy_base(node, content))
        except OSError as error:
            self._try_again(node, error)

    def _try_again(self, node: Node, error: OSError) -> None:
        """Let the operation run again after the source changed under a copy, a few times."""
        if error.errno != errno.ESTALE:
            raise error
        tries = self._tries.get(node.ino, 0) + 1
        self._tries[node.ino] = tries
        if tries >= _TRIES:
            del self._tries[node.ino]
            raise os_error(errno.EAGAIN) from error

    def base(self, node: Node, content: SourceContent) -> Base:
        """A base of the version that *content* holds, with its masked copy.

        Raises Blocked for a large file, OSError(EAGAIN) if the source keeps changing.
        """
        ready = self._prepared.pop(node.ino, None)
        if ready is not None and ready.content is content:
            self._tries.pop(node.ino, None)
            return ready.base
        if ready is not None and ready.base.body is not None:
            self._tree.bodies.remove(ready.base.body)
        if content.version.size > INLINE_BYTES:
            raise Blocked(lambda: self._prepare(node, content))
        try:
            return self._copy_base(node, content)
        except OSError as error:
            self._try_again(node, error)
            raise Blocked(lambda: None) from error

    def stage_content(
        self, node: Node, content: SourceContent | None, *, truncate: bool
    ) -> StagedInode:
        """Give the node a body of its own, empty if *truncate*. Inside no transaction.

        `content` is the source's present version, None for what the agent made. Raises Blocked,
        OSError.
        """
        inode = self._union.staged(node)
        if inode is not None and inode.body is not None:
            return inode
        if content is None:
            raise os_error(errno.ESTALE)
        base = self.base(node, content)
        body, fd = self._tree.bodies.create()
        try:
            if not truncate and base.body is not None:
                original = self._tree.bodies.open(base.body)
                try:
                    copy_contents(original, fd)
                finally:
                    os.close(original)
                os.utime(fd, ns=(content.version.atime_ns, content.version.mtime_ns))
            with self._tree.transaction():
                inode = self._union.stage(node)
                if inode.mtime_ns is not None and not truncate:
                    os.utime(fd, ns=(inode.atime_ns or inode.mtime_ns, inode.mtime_ns))
                inode.body = body
                inode.writes += 1
                self._tree.save(inode)
                if node.unlinked or node.origin is None:
                    if base.body is not None:
                        self._tree.discard_body(base.body)
                else:
                    self._union.keep_content_base(node.projection, node.origin, base)
        except BaseException:
            self._tree.bodies.remove(body)
            if base.body is not None:
                self._tree.bodies.remove(base.body)
            raise
        finally:
            os.close(fd)
        return inode
