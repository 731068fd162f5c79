"""A typed view of params.yaml: one module and frozen dataclass a section; what does not fit its type is an error.

The comments in params.yaml give each value's unit and reason; the classes give its type and range.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated

from visdyn.params.annotation import Annotation
from visdyn.params.base_models import BaseModels
from visdyn.params.doundo import Doundo
from visdyn.params.dynamics import Fdm, Idm, IdmEvaluation
from visdyn.params.evaluation import Evaluation, EvaluationDoundo
from visdyn.params.figures import Figures
from visdyn.params.human_study import HumanStudy
from visdyn.params.mining import Mining
from visdyn.params.probing import Probing
from visdyn.params.prompts import Prompts
from visdyn.params.reading import Filled, Name, ParamsError, Whole, from_mapping, read_values
from visdyn.params.recorded import Recorded
from visdyn.params.runtime import Data, Runtime
from visdyn.params.spatial import Spatial
from visdyn.params.verification import Verification
from visdyn.params.world import World
from visdyn.paths import profile_root

__all__ = ["Params", "ParamsError", "from_mapping", "load_params"]


@dataclass(frozen=True)
class Params:
    """All of params.yaml."""

    root: Name  # path to the repository
    seed: Whole  # every random draw derives from it
    chains: Annotated[tuple[Whole, ...], Filled()]  # whole draws of the experiment, rising
    runtime: Runtime
    data: Data
    world: World
    base_models: BaseModels
    prompts: Prompts
    probing: Probing
    mining: Mining
    idm: Idm
    idm_evaluation: IdmEvaluation
    annotation: Annotation
    fdm: Fdm
    doundo: Doundo
    verification: Verification
    evaluation: Evaluation
    evaluation_doundo: EvaluationDoundo
    spatial: Spatial
    human_study: HumanStudy
    recorded: Recorded
    figures: Figures

    def __post_init__(self) -> None:
        if any(later <= earlier for earlier, later in pairwise(self.chains)):
            raise ValueError(
                f"chains must rise and none stand twice, not {list(self.chains)}; the first is the one shown"
            )


def load_params(profile: str = ".") -> Params:
    """Read the params.yaml of a profile.

    Raises:
        FileNotFoundError: no such profile.
        ParamsError: an unknown key, a missing key, a wrong type or a value that is not allowed; the message names file,
            section and key, the value, and what is allowed.
    """
    path = profile_root(profile) / "params.yaml"
    return from_mapping(Params, read_values(path.parent), path)
