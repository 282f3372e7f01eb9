"""Redaction: what the agent must not see, it never sees, and editing never destroys it.

`redactor` is the way in. `engine` finds (`propose` with hyperscan, `rules`, `validators`, `bodies`
for keys and tokens without a bound, `views` for UTF-16 and UTF-32), `placeholders` mask, `stream`
serves files of any size, `restore` (with `place`) puts the originals back at commit. Rules are
data that the gateway hands in; nothing here reads a rule file or keeps a value.
"""

from vfs.redaction.engine import PROFILES, Engine
from vfs.redaction.errors import ScanError
from vfs.redaction.known import KnownValues
from vfs.redaction.placeholders import Masker, find_candidates
from vfs.redaction.redactor import SNAPSHOT_MAX, PlainReader, Redactor, Snapshot
from vfs.redaction.restore import Restoration, Undecided
from vfs.redaction.rules import Rule, RuleError, from_mapping
from vfs.redaction.spans import Finding
from vfs.redaction.stream import MaskedReader

__all__ = [
    "PROFILES",
    "SNAPSHOT_MAX",
    "Engine",
    "Finding",
    "KnownValues",
    "MaskedReader",
    "Masker",
    "PlainReader",
    "Redactor",
    "Restoration",
    "Rule",
    "RuleError",
    "ScanError",
    "Snapshot",
    "Undecided",
    "find_candidates",
    "from_mapping",
]
