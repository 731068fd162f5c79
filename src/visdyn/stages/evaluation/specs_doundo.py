"""Which systems are compared on the Do-Undo benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from visdyn.evaluation.benches.bench import DOUNDO_BENCH
from visdyn.evaluation.systems import doundo_systems as doundo
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.pipeline.stage import Stage
from visdyn.stages.evaluation.system_specs import (
    base_checkpoints,
    located,
    named_editors,
    of_first_chain,
    outputs_folder,
    resolved_runs,
)
from visdyn.trajectory import ReversiblePair


def doundo_systems(stage: Stage, pairs: Sequence[ReversiblePair]) -> list[SystemImages]:
    """Return those without a model, the base and its fine-tuned runs, the editors, and the imported folders.

    A system whose model, folder or endpoint is not there has no images and a note that says why.
    """
    prompts, sources = stage.params.prompts, stage.params.reverse_from
    baselines = baseline_systems(DOUNDO_BENCH, pairs, DOUNDO_BENCH.requests(prompts, sources), stage.seed)
    systems = of_first_chain(stage, baselines)
    if "doundo" in stage.params.trained:
        settings = stage.settings.doundo
        requested = [(name, chain) for name in settings.lambdas for chain in stage.chains]
        there, absent = resolved_runs(stage, "models/doundo", requested)
        systems += doundo.edit_with_models(
            pairs,
            [*base_checkpoints(stage, "base", settings.base), *there],
            outputs_folder(stage, "doundo"),
            stage.device,
            prompts,
            sources,
            stage.params.flow_steps or None,
        )
        systems += [run.left_out("doundo", f"not run: {run.model} does not exist; run stage doundo") for run in absent]
    editors = named_editors(stage, "doundo")
    others = [doundo.edit_pairs(editor, pairs, prompts, sources, stage.seed) for editor in editors]
    others += [
        doundo.from_folder(located(stage, one.folder), one.name, one.folder, pairs, one.prompt)
        for one in stage.params.imported
    ]
    return systems + of_first_chain(stage, others)
