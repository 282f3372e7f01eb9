"""A projection: one source at one name of the mount's root, and whether it is still alive.

A granted folder stands at the root as a whole. A granted file stands there too, in a *room* of its
own that is spread out over the root: whatever the agent makes beside it, as editors do to save,
belongs to that room, lives in the stage alone and is never committed.
"""

from dataclasses import dataclass
from enum import Enum

from vfs import names
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

    @property
    def is_room(self) -> bool:
        """True where a single file was granted."""
        return self.source.is_file

    @property
    def granted(self) -> bytes:
        """The place of what was granted: the folder itself, or the one file in its room."""
        return self.source.only

    def mount_path(self, place: bytes) -> bytes:
        """A place as a path relative to the mount's root."""
        return place if self.is_room else names.below(self.name, place)

    def is_temporary(self, place: bytes) -> bool:
        """True for what an agent keeps beside a single file."""
        return self.is_room and place not in (b"", self.granted)
