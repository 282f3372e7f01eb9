"""The daemon: one process a workspace, which serves the mount and the control socket.

`process` starts, hardens and ends it; `state` makes, locks and deletes a state folder; `mounting`
and `kernel` deal with the kernel; `workspace` holds the parts together and keeps its grants,
`sources` judges what may be granted, `gate` answers the vfs; `handlers` answer control requests,
`review`, `commit`, `transaction` and `undo` those of the user's review.
"""
