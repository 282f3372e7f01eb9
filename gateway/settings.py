"""A workspace's own settings: `workspace.json` in its state folder. Standard library only."""

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gateway.errors import GrantfsError

FILE_NAME = "workspace.json"


@dataclass(frozen=True, slots=True)
class Settings:
    """What has to be known of a workspace before its databases are opened.

    `id` is random and names the workspace in keyring and tokens; `key_store` says where its
    secret is; `public_key` (hexadecimal) verifies its log and tokens; `ask_timeout` is in seconds,
    `stage_limit` and `undo_limit` in bytes, `undo_days` in days: what is kept for an undo.
    """

    id: str
    name: str
    mountpoint: str
    created_at: float
    key_store: str
    public_key: str
    adapter: str = "pyfuse3"
    agent_user: str | None = None
    ask: bool = True
    ask_timeout: int = 60
    stage_limit: int = 16 << 30
    undo_limit: int = 2 << 30
    undo_days: int = 30

    def save(self, folder: Path) -> None:
        """Write the file whole or not at all."""
        temporary = folder / f".{FILE_NAME}.new"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with os.fdopen(fd, "w") as file:
            json.dump(asdict(self), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, folder / FILE_NAME)

    def with_changes(self, **changes: object) -> "Settings":
        """A copy with some fields changed."""
        return replace(self, **changes)  # type: ignore[arg-type]


def load(folder: Path) -> Settings:
    """The settings of the workspace in *folder*. Raises GrantfsError."""
    path = folder / FILE_NAME
    try:
        return Settings(**json.loads(path.read_text()))
    except FileNotFoundError:
        raise GrantfsError(f"{path} is missing: is this a workspace's state?") from None
    except (OSError, ValueError, TypeError) as error:
        raise GrantfsError(f"cannot read {path}: {error}") from error
