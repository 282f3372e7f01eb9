"""Whole sessions with real programs; the driver and its fixtures are those of `tests/mount`."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "mount"))
pytest.register_assert_rewrite("both_places")

from mount_fixtures import *  # noqa: E402, F403
