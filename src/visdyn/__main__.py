"""`python -m visdyn`: the program `visdyn`, where its script is not on the path."""

import sys

from visdyn.cli import main

if __name__ == "__main__":
    sys.exit(main())
