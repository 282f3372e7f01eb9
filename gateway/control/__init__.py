"""The control socket: one JSON object a line, request and reply, between clients and a daemon.

`messages` is the protocol as pydantic models, `server` the daemon's end, `client` the other one,
which needs the standard library alone.
"""
