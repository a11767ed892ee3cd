"""`python -m mf2.cli`: the `mf2` command where no script is installed."""

import sys

from .main_command import main

sys.exit(main())
