"""Which systems are compared on AURORA-Bench."""

from __future__ import annotations

from collections.abc import Sequence

from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.systems import forward_systems as aurora
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.outputs import Checkpoint, SystemImages
from visdyn.pipeline.stage import Stage
from visdyn.stages.evaluation.system_specs import (
    base_checkpoints,
    located,
    named_editors,
    of_first_chain,
    outputs_folder,
    resolved_runs,
)
from visdyn.training.runs import requested_runs
from visdyn.trajectory import Trajectory


def aurora_systems(stage: Stage, items: Sequence[Trajectory]) -> list[SystemImages]:
    """Return those without a model, the kit's own systems, the editors, and the imported folders, in this order.

    A system whose model, folder or endpoint is not there has no images and a note that says why.
    """
    checkpoints, absent = _aurora_checkpoints(stage)
    systems = of_first_chain(stage, baseline_systems(AURORA_BENCH, items, AURORA_BENCH.requests(), stage.seed))
    outputs, drawn, prompts = outputs_folder(stage, "aurora"), stage.params.sampling, stage.settings.prompts
    systems += aurora.sample_models(items, checkpoints, outputs, stage.device, drawn, prompts)
    systems += [run.left_out("aurora", f"not run: {run.model} does not exist; run stage fdm") for run in absent]
    others = [aurora.edit_items(editor, items, stage.seed) for editor in named_editors(stage, "aurora")]
    others += [
        aurora.from_folder(located(stage, one.folder), one.name, one.folder, items) for one in stage.params.imported
    ]
    return systems + of_first_chain(stage, others)


def _aurora_checkpoints(stage: Stage) -> tuple[list[Checkpoint], list[Checkpoint]]:
    """Return what `evaluation.trained` names (tokenizer's ceiling, zero-shot base, FDM runs), and runs not there."""
    base, wanted = stage.settings.fdm.base, stage.params.trained
    bases = {name: base_checkpoints(stage, name, base) for name in ("tokenizer_ceiling", "zero_shot") if name in wanted}
    # The chains' bases hold one tokenizer.
    found = [*bases.get("tokenizer_ceiling", [])[:1], *bases.get("zero_shot", [])]
    if "fdm" not in wanted:
        return found, []
    there, absent = resolved_runs(stage, "models/fdm", requested_runs(stage.settings.fdm, stage.chains))
    return found + there, absent
