"""What stops a stage."""


class StageError(RuntimeError):
    """A stage cannot start, or cannot be trusted to have ended well; the message says why and what to do."""
