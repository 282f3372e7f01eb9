"""Whole sessions with real programs; the driver and its fixtures are those of `tests/mount`."""

import importlib.util
import sys
from pathlib import Path

import pytest

_MOUNT = Path(__file__).parent.parent / "mount"
sys.path.append(str(_MOUNT))
pytest.register_assert_rewrite("both_places")

# By its path: this file's name is `conftest` as well.
_spec = importlib.util.spec_from_file_location("mount_fixtures", _MOUNT / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

fill = _fixtures.fill
fuse = _fixtures.fuse
grantfs = _fixtures.grantfs
nothing_left = _fixtures.nothing_left
root = _fixtures.root
source = _fixtures.source
