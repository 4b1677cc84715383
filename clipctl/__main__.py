"""`python -m clipctl`."""

import sys

from clipctl.cli import main

if __name__ == "__main__":
    sys.exit(main())
