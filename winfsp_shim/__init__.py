"""The vfs core served through mfusepy: WinFsp on Windows, libfuse3 on Linux.

`load` gives the mount class, which has the interface of `vfs.fuse.FuseMount`. Importing this
package alone needs neither mfusepy nor a FUSE library.

`library` finds mfusepy and what it drives, `system` holds what differs between the operating
systems, `adapter` translates requests, `held` keeps the core's nodes known between them, and
`mount` mounts and runs the loop.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from winfsp_shim.mount import ShimMount


class ShimUnavailable(RuntimeError):
    """The shim cannot work on this machine; the text says why, `hint` what to install."""

    def __init__(self, why: str, hint: str) -> None:
        super().__init__(f"{why}: {hint}")
        self.hint = hint


def load() -> "type[ShimMount]":
    """The mount class. Raises ShimUnavailable without mfusepy, or without its FUSE library."""
    from winfsp_shim.mount import ShimMount

    return ShimMount


__all__ = ["ShimUnavailable", "load"]
