"""The pipeline: what runs a stage of dvc.yaml, and what a notebook holds of its stage (`open_stage`)."""

from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage, open_stage

__all__ = ["Stage", "StageError", "open_stage"]
