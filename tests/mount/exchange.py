"""renameat2(2) with RENAME_EXCHANGE, which Python does not have."""

import ctypes
import os


def exchange(one: str, other: str) -> None:
    """Exchange two names. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
