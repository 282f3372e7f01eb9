"""`python -m gateway` is the same program as `grantfs`."""

import sys

from gateway.cli import main

sys.exit(main())
