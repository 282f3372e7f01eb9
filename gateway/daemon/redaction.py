"""Builds the redactor of a workspace from the rule packs and its placeholder key."""

from pathlib import Path

from gateway.authority.keys import Keys
from policies.packs import builtin_rules
from vfs.redaction import Engine, Masker, Redactor, from_mapping


def build_engine(cache: Path | None) -> Engine:
    """The scanner over the shipped packs; its compiled form is kept in *cache*.

    Raises PackError or RuleError if a pack is bad, ScanError if the engine cannot be made.
    """
    return Engine((from_mapping(fields, trusted=True) for fields in builtin_rules()), cache)


def build_redactor(keys: Keys, cache: Path) -> Redactor:
    """The workspace's redactor."""
    return Redactor(build_engine(cache), Masker(keys.derive("placeholder")))
