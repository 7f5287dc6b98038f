"""`python -m cachekit` runs the `cachekit` command, for environments without scripts on the path."""

import sys

from cachekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
