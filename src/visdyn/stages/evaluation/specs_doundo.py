"""Which systems are compared on the Do-Undo benchmark."""

from __future__ import annotations

from collections.abc import Sequence

from visdyn.evaluation.benches.bench import DOUNDO_BENCH
from visdyn.evaluation.systems import doundo_systems as doundo
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.outputs import Checkpoint, SystemImages
from visdyn.pipeline.stage import Stage
from visdyn.stages.evaluation.system_specs import located, named_editors, outputs_folder, resolved_runs
from visdyn.trajectory import ReversiblePair


def doundo_systems(stage: Stage, pairs: Sequence[ReversiblePair]) -> list[SystemImages]:
    """Return copy, oracle and shuffled, the base and its fine-tuned runs, the editors, and the imported folders.

    A system whose model, folder or endpoint is not there has no images and a note that says why.
    """
    prompts, sources = stage.params.prompts, stage.params.reverse_from
    systems = baseline_systems(DOUNDO_BENCH, pairs, DOUNDO_BENCH.requests(prompts, sources), stage.seed)
    if "doundo" in stage.params.trained:
        settings = stage.settings.doundo
        base = Checkpoint("base", 0, located(stage, settings.base), settings.base, stage.seed)
        requested = [(name, seed) for name in settings.variants for seed in settings.seeds]
        there, absent = resolved_runs(stage, "models/doundo", requested)
        systems += doundo.edit_with_models(
            pairs,
            [base, *there],
            outputs_folder(stage, "doundo"),
            stage.device,
            prompts,
            sources,
            stage.params.flow_steps or None,
        )
        systems += [run.left_out("doundo", f"not run: {run.model} does not exist; run stage doundo") for run in absent]
    editors = named_editors(stage, "doundo")
    systems += [doundo.edit_pairs(editor, pairs, prompts, sources, stage.seed) for editor in editors]
    return systems + [
        doundo.from_folder(located(stage, one.folder), one.name, one.folder, pairs, one.prompt)
        for one in stage.params.imported
    ]
