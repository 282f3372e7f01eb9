"""mfusepy, and through it the FUSE library that it drives; only this module imports it.

Importing this module raises `ShimUnavailable` where one of them is missing. mfusepy looks for its
library while it is imported, so a failed import may be tried again once that is installed.
"""

import os
import sys
from types import ModuleType

from winfsp_shim import ShimUnavailable

_LIBRARY_HINT = (
    "install WinFsp 2.0 or later"
    if sys.platform == "win32"
    else "install libfuse3 and fusermount3 (Debian: apt-get install fuse3)"
)


def _import() -> ModuleType:
    chosen = {"FUSE_LIBRARY_PATH", "FUSE_LIBRARY_NAME"} & os.environ.keys()
    prefer = sys.platform == "linux" and not chosen
    if prefer:
        # Where both are installed mfusepy takes libfuse 2, whose callbacks lack the handle.
        os.environ["FUSE_LIBRARY_NAME"] = "fuse3"
    try:
        import mfusepy
    except ModuleNotFoundError as error:
        if error.name != "mfusepy":
            raise
        raise ShimUnavailable(
            "the mfusepy adapter needs mfusepy, which is not installed",
            "pip install 'grantfs[winfsp]'",
        ) from error
    except (OSError, AttributeError, NotImplementedError) as error:
        raise ShimUnavailable(
            f"the mfusepy adapter found no usable FUSE library ({error})", _LIBRARY_HINT
        ) from error
    finally:
        if prefer:
            del os.environ["FUSE_LIBRARY_NAME"]
    if sys.platform == "linux" and mfusepy.fuse_version_major != 3:
        raise ShimUnavailable(
            f"the mfusepy adapter needs libfuse 3, but mfusepy loaded {mfusepy.fuse_version_major}",
            _LIBRARY_HINT,
        )
    return mfusepy  # type: ignore[no-any-return]


mfusepy = _import()
