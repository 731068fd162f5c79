"""`python -m visdyn.pipeline <stage>`: run one stage of a profile."""

import sys

from visdyn.pipeline.runner import main

if __name__ == "__main__":
    sys.exit(main())
