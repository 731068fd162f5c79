"""`python -m visdyn.pipeline <stage>` runs a stage of a profile; `... plan` says what all of them take."""

import sys

from visdyn.pipeline.processes import guard_start

if __name__ == "__main__":
    if sys.argv[1:2] == ["plan"]:
        from visdyn.pipeline import cost_plan

        sys.exit(cost_plan.main(sys.argv[2:]))
    guard_start()
    # The runner brings pandas, and then hashes what the stage depends on: a Ctrl-C or the end of DVC may come before.
    from visdyn.pipeline.runner import main

    sys.exit(main())
