"""The core without a mount: see `core_workspace`."""

from core_workspace import *  # noqa: F403
