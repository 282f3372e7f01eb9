"""Real mounts: see `mount_fixtures`."""

from mount_fixtures import *  # noqa: F403
