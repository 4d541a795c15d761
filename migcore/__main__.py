"""``python -m migcore``: the command line."""

import sys

from migcore.cli import main

if __name__ == "__main__":
    sys.exit(main())
