"""One POSIX suite over a plain folder and over a mount; mounts are those of `tests/mount`."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent / "mount"))

from mount_fixtures import *  # noqa: F403
