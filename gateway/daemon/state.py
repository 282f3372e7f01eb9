"""A workspace's state folder before it is opened: made whole or not at all, locked, deleted."""

import fcntl
import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path

from gateway import clock, settings
from gateway.authority import keys as keystore
from gateway.control import messages
from gateway.daemon.mounting import unmount_stale
from gateway.errors import GrantfsError
from gateway.places import Places
from gateway.settings import Settings


def create_state(folder: Path, start: messages.StartUp, places: Places) -> Settings:
    """Make a new workspace's state, whole or not at all."""
    folder.mkdir(mode=0o700)
    try:
        identity = secrets.token_hex(16)
        keys = keystore.create(folder, identity)
        public = keys.signing.public_key().public_bytes_raw().hex()
        chosen = Settings(
            id=identity,
            name=start.name,
            mountpoint=start.mountpoint or str(places.mounts / start.name),
            created_at=clock.now(),
            key_store=keys.store,
            public_key=public,
        )
        chosen.save(folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return chosen


def with_start(chosen: Settings, start: messages.StartUp) -> Settings:
    """The settings with what the start-up message changes in them."""
    changes: dict[str, object] = {}
    if start.mountpoint is not None:
        changes["mountpoint"] = start.mountpoint
    if start.adapter is not None:
        changes["adapter"] = start.adapter
    if start.agent_user is not None:
        changes["agent_user"] = start.agent_user
    if start.ask is not None:
        changes["ask"] = start.ask
    if start.ask_timeout is not None:
        changes["ask_timeout"] = start.ask_timeout
    if start.stage_limit is not None:
        changes["stage_limit"] = start.stage_limit
    if start.undo_limit is not None:
        changes["undo_limit"] = start.undo_limit
    if start.undo_days is not None:
        changes["undo_days"] = start.undo_days
    return chosen.with_changes(**changes)


def lock(folder: Path) -> int:
    """Take the workspace for this process. Raises GrantfsError if another has it."""
    fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(fd)
        raise GrantfsError(
            f"workspace {folder.name!r} is in use by another daemon: wait for it, or stop it with"
            f" `grantfs down --name {folder.name} --force`"
        ) from error
    return fd


def remove_workspace(places: Places, name: str) -> None:
    """Delete a workspace. Raises GrantfsError if a daemon holds it."""
    folder = places.workspace(name)
    chosen = settings.load(folder)
    fd = lock(folder)
    try:
        unmount_stale(chosen.mountpoint)
        # The key first: without it nothing that a broken-off deletion leaves can be read.
        with suppress(Exception):
            keystore.remove(folder, chosen.id, chosen.key_store)
        shutil.rmtree(folder)
        places.socket(name).unlink(missing_ok=True)
        if chosen.mountpoint == str(places.mounts / name):
            with suppress(OSError):
                os.rmdir(chosen.mountpoint)
    finally:
        os.close(fd)
