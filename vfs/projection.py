"""A projection: one source at one name of the mount's root, and whether it is still alive."""

from dataclasses import dataclass
from enum import Enum

from vfs.source import Source


class Life(Enum):
    """LIVE serves; ENDED serves nothing (but see `Projection.draining`)."""

    LIVE = "live"
    ENDED = "ended"


@dataclass(slots=True, eq=False)
class Projection:
    """`name` is what stands at the mount's root; `id` is persistent and numbers its inodes.

    `draining` is set while a grant ends and the kernel gives back pages that a process dirtied
    through a map. `epoch` counts the endings: a handle of an earlier epoch stays dead even when
    the same path is granted again.
    """

    id: int
    name: bytes
    source: Source
    life: Life = Life.LIVE
    draining: bool = False
    epoch: int = 0
