"""`python -m tercet`."""

import sys

from tercet.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
