"""The audit log: what happened in a workspace, chained so that no entry can be changed unnoticed.

`events` is the vocabulary, `codec` the stored form of one event, `chain` the hashes and signed
checkpoints, `store` the SQLite file, `inbox` and `writer` the daemon's end (`AuditLog`); `reader`
and `verify` work on the files alone, with or without a daemon; `sentences` words a record for
people.
"""

from gateway.audit.chain import Head
from gateway.audit.errors import AuditError, EventError
from gateway.audit.events import Actor, Event, Record
from gateway.audit.reader import read
from gateway.audit.sentences import sentence
from gateway.audit.verify import Verification, verify
from gateway.audit.writer import AuditLog

__all__ = [
    "Actor",
    "AuditError",
    "AuditLog",
    "Event",
    "EventError",
    "Head",
    "Record",
    "Verification",
    "read",
    "sentence",
    "verify",
]
