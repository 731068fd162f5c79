"""`python -m visdyn.pipeline <stage>`: run one stage of a profile."""

import sys

from visdyn.pipeline.processes import guard_start

if __name__ == "__main__":
    guard_start()
    # The runner brings pandas, and then hashes what the stage depends on: a Ctrl-C or the end of DVC may come before.
    from visdyn.pipeline.runner import main

    sys.exit(main())
