"""The command line: a client of the daemons' control sockets, with no authority of its own.

`app` is the program, `context` what all commands share, the others hold the commands by theme.
Only click and the standard library are imported at start, so that a call costs little more than
starting Python.
"""

from gateway.cli.app import main

__all__ = ["main"]
