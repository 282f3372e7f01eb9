"""Deleting a stopped workspace: its key, its state, its mountpoint."""

import os
import shutil
from contextlib import suppress

from gateway import settings
from gateway.authority import keys as keystore
from gateway.daemon.process import lock, unmount_stale
from gateway.places import Places


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
