"""``python -m avsm``: the command line."""

import sys

from avsm.cli import main

sys.exit(main())
