"""The one error that redaction raises towards the file system.

A caller must answer it with a failed read (`EIO`), never with the bytes that could not be scanned.
"""


class ScanError(Exception):
    """A scan failed or ran out of its bounds, so nothing is known about the bytes.

    `hint` says what the user can do. Neither text ever holds bytes of the file.
    """

    def __init__(self, reason: str, hint: str = "grantfs doctor checks the scanner") -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint
