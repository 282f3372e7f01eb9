"""After a commit or an undo is made: what was displaced goes. For a worker thread."""

import logging
from collections.abc import Sequence

from gateway.commit.batch import Batch
from gateway.daemon.workspace import Workspace
from gateway.errors import GrantfsError

log = logging.getLogger(__name__)


def clear_away(workspace: Workspace, commit: str, batches: Sequence[Batch]) -> None:
    """Remove leftovers and end the commit's journal. Where that cannot be, the commit stays in the
    journal, and is finished at the next one or the next start."""
    try:
        workspace.fs.store.sync()
        for batch in batches:
            if error := batch.clean():
                raise error
        workspace.commits.finish(commit, landed=True)
        workspace.forget_old_commits()
    except (OSError, GrantfsError) as error:
        log.error("commit %s is made, leftovers of it wait: %s", commit, error)
        workspace.commits.note_landed(commit)
