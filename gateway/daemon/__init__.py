"""The daemon: one process a workspace, which serves the mount and the control socket.

`process` starts and hardens it, `workspace` holds its parts together, `gate` answers the vfs,
`kernel` drops what the kernel has cached, `review` and `commits` work for the user's review.
"""
