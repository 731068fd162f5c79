"""The pipeline: what runs a stage of dvc.yaml, and what a notebook holds of its stage (`open_stage`)."""

from typing import TYPE_CHECKING

from visdyn.pipeline.errors import StageError

if TYPE_CHECKING:
    from visdyn.pipeline.stage import Stage, open_stage

__all__ = ["Stage", "StageError", "open_stage"]


def __getattr__(name: str):
    # A stage brings pandas and numpy, and `visdyn.pipeline.arithmetic` comes before them.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from visdyn.pipeline import stage

    return getattr(stage, name)
