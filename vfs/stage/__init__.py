"""The copy-on-write layer: what the agent changed, kept until the user commits or discards it.

`store` is the tree's rows on disk, `bodies` the staged contents as plain files, `tree` both as
one structure in memory, `changes` the differences from the sources that it amounts to.
"""
