"""`python -m tlx` is the command `tlx`."""

import sys

from tlx.cli import main

if __name__ == "__main__":
    sys.exit(main())
