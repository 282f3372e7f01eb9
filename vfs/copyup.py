"""Copy-up: the first change of a file's content gives it a body in the stage.

What is copied is what the agent may see, the masked bytes, from one descriptor, and it counts
only if the source did not change meanwhile. The masked copy is kept beside the new body as the
base that review, merge and restoring need; `O_TRUNC` copies nothing into the new body.
"""

import errno
import os
import threading
from dataclasses import dataclass

from vfs.blocking import Blocked
from vfs.content import INLINE_BYTES, SourceContent
from vfs.nodes import Node
from vfs.stage.bodies import copy_contents
from vfs.stage.quota import BLOCK
from vfs.stage.tree import Base
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
        self._prepared_lock = threading.Lock()
        self._tries: dict[int, int] = {}

    def _copy_base(self, content: SourceContent) -> Base:
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
            base = self._copy_base(content)
        except OSError as error:
            self._try_again(node, error)
            return
        with self._prepared_lock:
            earlier = self._prepared.get(node.ino)
            self._prepared[node.ino] = _Prepared(content, base)
        if earlier is not None:
            self._remove(earlier.base)

    def _remove(self, base: Base) -> None:
        if base.body is not None:
            self._tree.bodies.remove(base.body)
            self._tree.quota.gone(base.body)

    def _take_prepared(self, node: Node) -> _Prepared | None:
        with self._prepared_lock:
            return self._prepared.pop(node.ino, None)

    def discard(self, node: Node) -> None:
        """Remove what was prepared for a node that does not need it any more."""
        if node.ino in self._prepared:
            ready = self._take_prepared(node)
            if ready is not None:
                self._remove(ready.base)

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
        ready = self._take_prepared(node)
        if ready is not None and ready.content is content:
            self._tries.pop(node.ino, None)
            return self._noted(ready.base)
        if ready is not None:
            self._remove(ready.base)
        self._tree.quota.check_copy(content.version.blocks * BLOCK)
        if content.version.size > INLINE_BYTES:
            raise Blocked(lambda: self._prepare(node, content))
        try:
            base = self._copy_base(content)
        except OSError as error:
            self._try_again(node, error)
            raise Blocked(lambda: None) from error
        self._tries.pop(node.ino, None)
        return self._noted(base)

    def _noted(self, base: Base) -> Base:
        if base.body is not None:
            self._tree.note_size(base.body)
        return base

    def settled(self, node: Node) -> None:
        """The node has a body: what late jobs prepared for it is not needed."""
        self.discard(node)
        self._tries.pop(node.ino, None)

    def keep_base(self, node: Node, content: SourceContent) -> None:
        """Keep the masked content of a source place that is about to be replaced. Raises Blocked,
        OSError."""
        assert node.origin is not None
        base = self.base(node, content)
        try:
            with self._tree.transaction():
                self._union.keep_content_base(node.projection, node.origin, base)
        except BaseException:
            self._remove(base)
            raise

    def stage_content(
        self, node: Node, content: SourceContent, *, truncate: bool
    ) -> tuple[int, int]:
        """Give a node that has none a body of its own, empty if *truncate*; in no transaction.

        `content` is the source's present version. Returns the body and a descriptor of it, which
        the caller closes. Raises Blocked, OSError.
        """
        base = self.base(node, content)
        body, fd = self._tree.bodies.create()
        try:
            if not truncate and base.body is not None:
                self._tree.quota.check_copy(content.version.blocks * BLOCK)
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
            os.close(fd)
            self._tree.bodies.remove(body)
            self._remove(base)
            raise
        self._tree.note_size(body)
        return body, fd
