"""Where grantfs keeps things: state, sockets, policy, default mounts. Standard library only.

`GRANTFS_HOME` moves everything under one folder; without it the XDG folders are used.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from gateway.errors import GrantfsError, UsageError

MANAGED_POLICY = Path("/etc/grantfs/policy.d")
MANAGED_RULES = Path("/etc/grantfs/rules.d")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


def check_name(name: str) -> str:
    """Return a workspace's name if it is one: it becomes a folder's name. Raises UsageError."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"bad workspace name {name!r}: use up to 64 letters, digits, '.', '_' or '-',"
            " not starting with '.' or '-'"
        )
    return name


def _xdg(variable: str, fallback: Path) -> Path:
    value = os.environ.get(variable, "")
    # The XDG specification has relative values ignored.
    return Path(value) / "grantfs" if os.path.isabs(value) else fallback


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of one user's grantfs."""

    state: Path
    runtime: Path
    config: Path
    mounts: Path
    managed_policy: tuple[Path, ...]
    user_policy: Path
    cache: Path

    @property
    def user_rules(self) -> Path:
        """Folder of the user's own rule packs."""
        return self.config / "rules.d"

    @classmethod
    def from_environment(cls) -> "Places":
        """The folders that the environment names. Nothing is created."""
        home = os.environ.get("GRANTFS_HOME")
        if home:
            base = Path(os.path.abspath(home))
            return cls(
                state=base / "state",
                runtime=base / "run",
                config=base / "config",
                mounts=base / "mnt",
                managed_policy=(MANAGED_POLICY, base / "policy" / "managed"),
                user_policy=base / "policy" / "user",
                cache=base / "cache",
            )
        user = Path.home()
        state = _xdg("XDG_STATE_HOME", user / ".local" / "state" / "grantfs")
        config = _xdg("XDG_CONFIG_HOME", user / ".config" / "grantfs")
        return cls(
            state=state,
            runtime=_xdg("XDG_RUNTIME_DIR", state / "run"),
            config=config,
            mounts=user / "grantfs",
            managed_policy=(MANAGED_POLICY,),
            user_policy=config / "policy.d",
            cache=_xdg("XDG_CACHE_HOME", user / ".cache" / "grantfs"),
        )

    def workspace(self, name: str) -> Path:
        """State folder of a workspace."""
        return self.state / check_name(name)

    def socket(self, name: str) -> Path:
        """Control socket of a workspace."""
        return self.runtime / f"{check_name(name)}.sock"

    def names(self) -> list[str]:
        """Names of all workspaces that have a state, sorted."""
        try:
            found = os.listdir(self.state)
        except FileNotFoundError:
            return []
        return sorted(
            name
            for name in found
            if _NAME.fullmatch(name) and (self.state / name / "workspace.json").exists()
        )


def make_private(folder: Path) -> Path:
    """Make a 0700 folder with its parents, or check that one is ours and closed to others.

    Raises GrantfsError.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.getuid():
            raise GrantfsError(
                f"{folder} belongs to another user: move it away or set GRANTFS_HOME"
            )
        if status.st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise GrantfsError(
            f"cannot use {folder}: {error.strerror}; free it or set GRANTFS_HOME"
        ) from error
    return folder
