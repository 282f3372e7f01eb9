"""What an agent reads in `.grantfs/`: where it is, and what it was granted. No host paths."""

import json

from gateway import clock
from gateway.audit.events import show_name
from gateway.authority.grants import GrantStore

README = """\
# You are in a grantfs workspace

Everything beside this folder was granted to you by the user of this computer. It looks and works
like ordinary files.

- **Reading** is logged. Passwords, tokens and keys are masked: where you see text such as
  `MASKED` followed by letters and digits, a secret of the same length stands in the real file.
  Leave such placeholders as they are and where they are: when the user commits your edit, the
  secret is put back. Do not shorten, invent or move them to other files.
- **Writing** changes nothing of the user's yet. Your changes are staged; the user reviews them as
  a diff, and commits or discards them.
- **What you may use, and until when**, is in `grants.json` here. `EROFS` (read-only file system)
  means that a place was granted for reading only, `EACCES` that policy refuses, `ESTALE` that a
  grant has ended.
- **If you need more**, ask the user to grant it.
"""


def readme() -> bytes:
    """The bytes of `.grantfs/README.md`."""
    return README.encode()


def grants_json(grants: GrantStore) -> bytes:
    """The bytes of `.grantfs/grants.json`: the mount's own names, nothing of the host's."""
    shown = [
        {
            "mounted_as": show_name(grant.mounted_as),
            "access": grant.access,
            "expires_at": clock.rfc3339(grant.expires_at),
        }
        for grant in grants.live()
    ]
    return json.dumps(shown, indent=1).encode() + b"\n"
