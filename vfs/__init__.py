"""What the agent sees: names, inodes, projection of sources, stage and redaction.

Neutral of FUSE and of the operating system's mount: `filesystem` holds the operations,
`fuse` (and `winfsp_shim`) translate to them. Knows no command line, web page, keyring or policy
file; it asks for verdicts and reports events through `vfs.gate.Gate` alone.
"""
