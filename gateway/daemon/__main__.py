"""Starts the daemon: `python -P -m gateway.daemon`, by `grantfs up` alone."""

import sys

from gateway.daemon.process import main

sys.exit(main())
