"""What must be so before a workspace can be mounted, and the mount itself."""

import ctypes
import errno
import os
import pwd
import shutil
import stat
import subprocess
from collections.abc import Sequence
from pathlib import Path

from gateway.daemon import kernel, sources
from gateway.daemon.workspace import Workspace
from gateway.errors import GrantfsError, UsageError

_MNT_DETACH = 2


def unmount_stale(mountpoint: str) -> bool:
    """Remove the mount that a dead daemon left; True if there was one.

    A mount that answers is somebody's and stays, whatever the path says.
    """
    if os.fsencode(mountpoint) not in sources.grantfs_mounts():
        return False
    try:
        # Not `stat`: the kernel would answer for a dead daemon from what it holds of the root.
        os.statvfs(mountpoint)
        return False
    except OSError as error:
        # The second is what a request gets that was under way when the daemon died.
        if error.errno not in (errno.ENOTCONN, errno.ECONNABORTED):
            return False
    if os.getuid() == 0:
        if ctypes.CDLL(None, use_errno=True).umount2(os.fsencode(mountpoint), _MNT_DETACH):
            number = ctypes.get_errno()
            raise GrantfsError(f"cannot unmount the dead {mountpoint}: {os.strerror(number)}")
        return True
    command = ["fusermount3", "-u", "-z", "--", mountpoint]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise GrantfsError(
            f"cannot unmount the dead {mountpoint}: {done.stderr.decode(errors='replace').strip()}"
        )
    return True


def check_mountpoint(mountpoint: str, own: Sequence[Path]) -> None:
    """Refuse a mountpoint inside another mount of grantfs or its own folders.

    Raises RefusedError, UsageError.
    """
    if not os.path.isabs(mountpoint):
        raise UsageError(f"the mountpoint {mountpoint} must be an absolute path")
    real = os.fsencode(os.path.realpath(mountpoint))
    if real not in sources.grantfs_mounts():  # that one is busy, which is said when it is tried
        sources.check_outside(real, own)


def prepare_mountpoint(mountpoint: str) -> bool:
    """Make sure that there is an empty folder to mount on; True if it was made here.

    Raises GrantfsError.
    """
    path = Path(mountpoint)
    try:
        path.mkdir(mode=0o700, parents=True)
        return True
    except FileExistsError:
        pass
    except OSError as error:
        raise GrantfsError(
            f"cannot make the mountpoint {mountpoint}: {error.strerror}; name another with --mount"
        ) from error
    try:
        if not stat.S_ISDIR(path.lstat().st_mode):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is no folder: name another with --mount"
            )
        if os.path.ismount(mountpoint):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is busy: something is mounted there; unmount it or"
                " name another with --mount"
            )
        if os.listdir(mountpoint):
            raise GrantfsError(
                f"the mountpoint {mountpoint} is not empty: empty it or name another with --mount"
            )
    except OSError as error:
        raise GrantfsError(f"cannot use the mountpoint {mountpoint}: {error.strerror}") from error
    return False


MTAB = Path("/etc/mtab")


def check_fuse(adapter: str) -> None:
    """Raise GrantfsError, with what to do, where this machine cannot mount."""
    try:
        os.close(os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        what = "load it with `modprobe fuse`" if error.errno == errno.ENOENT else "open it to you"
        raise GrantfsError(
            f"cannot mount: /dev/fuse: {error.strerror}; {what} (`grantfs doctor` knows more)"
        ) from error
    if not os.getuid():
        return
    if shutil.which("fusermount3") is None:
        raise GrantfsError("cannot mount: fusermount3 is missing; install the package fuse3")
    if not MTAB.exists():
        # It would mount, and nobody but root could unmount.
        raise GrantfsError(
            f"cannot mount: {MTAB} is missing, without which fusermount3 cannot unmount;"
            f" make it: sudo ln -s ../proc/self/mounts {MTAB}"
        )
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        raise GrantfsError(
            f"cannot mount: user id {os.getuid()} has no name, without which fusermount3 refuses;"
            " add one to /etc/passwd"
        ) from None


def open_mount(mount: kernel.Mount, mountpoint: str, log: Path) -> None:
    """Mount. Raises GrantfsError, with the reason that fusermount3 gave: it wrote it to our
    standard error, which is *log*."""
    before = log.stat().st_size
    try:
        mount.open()
    except (RuntimeError, OSError) as error:
        said = log.read_bytes()[before:].decode(errors="replace").splitlines()
        reasons = [line for line in said if line.startswith("fusermount3: ")]
        raise GrantfsError(
            f"cannot mount at {mountpoint}: {reasons[-1] if reasons else error};"
            " `grantfs doctor` says what is missing"
        ) from error


def make_mount(workspace: Workspace) -> kernel.Mount:
    """The mount through the adapter that the workspace asks for. Raises GrantfsError."""
    chosen = workspace.settings
    others = chosen.agent_user is not None
    if chosen.adapter == "mfusepy":
        from winfsp_shim import ShimUnavailable, load

        try:
            shim = load()
        except ShimUnavailable as error:
            raise GrantfsError(f"cannot mount with mfusepy: {error}") from error
        return shim(workspace.fs, chosen.mountpoint, allow_other=others)
    from vfs.fuse import FuseMount

    return FuseMount(workspace.fs, chosen.mountpoint, allow_other=others)
