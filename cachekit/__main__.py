"""`python -m cachekit` is the `cachekit` command, for where scripts are not on the path."""

import sys

from cachekit.cli import main

if __name__ == "__main__":
    sys.exit(main())
