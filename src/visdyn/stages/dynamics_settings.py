"""What stages `idm` and `fdm` share: where their data are encoded, and what they tell of themselves."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from visdyn.paths import file_digest
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.stage import Stage
from visdyn.training.dynamics_data import DynamicsData


def open_data(stage: Stage) -> DynamicsData:
    """Resolve where a stage's triplets are encoded, with what, and how many of each subset.

    They are encoded once: the bases of all chains hold one image tokenizer.

    Raises:
        StageError: they do not.
    """
    codes = stage.settings.runtime.codes
    bases = {stage.reference(stage.params.base, chain) for chain in stage.chains}
    tokenizers = {_digest_tokenizer(base) for base in bases}
    if len(bases) > 1 and (len(tokenizers) > 1 or () in tokenizers):
        raise StageError(
            f"the chains of {stage.params.base} hold image tokenizers of their own (folder vqgan), but triplets are "
            "encoded once for all chains; name bases with one tokenizer, or a single base"
        )
    return DynamicsData(
        stage.reference(stage.params.base),
        stage.params.limits,
        stage.seed,
        stage.scratch("triplets"),
        codes=stage.located(codes, "runtime.codes") if codes else None,
        device=stage.device,
        log_seconds=stage.settings.runtime.log_seconds,
        quarantine=stage.quarantine(),
    )


def setting(stage: Stage) -> dict:
    """Describe what a stage fine-tunes, and how (idm/setting.json, fdm/setting.json)."""
    params = stage.params
    given, found = params.base, stage.reference(params.base)
    base = given if Path(found).is_relative_to(stage.root / given) else found
    return {
        "base": base,
        "adapter": params.lora and asdict(params.lora),
        "training": asdict(params.training),
        "seed": stage.seed,
        "chains": list(stage.chains),
    }


def _digest_tokenizer(base: str) -> tuple[str, ...]:
    """Return the digests of an image tokenizer's files, none where the base is no folder or has no `vqgan`."""
    return tuple(file_digest(path) for path in sorted(Path(base).glob("vqgan/*")) if path.suffix != ".csv")
