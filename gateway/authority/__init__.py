"""Grants and what they stand on: keys, signed tokens, the store of grants."""
