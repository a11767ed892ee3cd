"""`python -m mf2.cli`: the `mf2` command where no script is installed."""

import sys

from .dispatch import main

sys.exit(main())
