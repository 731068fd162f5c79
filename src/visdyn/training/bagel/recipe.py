"""Recipes for BAGEL: which parameters train, on which mixture, and how the result is saved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from visdyn.models.adapters import make_portable
from visdyn.models.bagel import Bagel, Dropout
from visdyn.models.bagel.checkpoint import load_autoencoder, local_folder
from visdyn.training.bagel.mixture import BagelMixture, collate
from visdyn.training.bagel.objective import BagelObjective, RunningAverage
from visdyn.training.bagel.posteriors import posterior_cache
from visdyn.training.bagel.records import read_records
from visdyn.training.engine.fit import Recipe, fit, write_history
from visdyn.training.engine.sharding import gathered, resolve_hardware, trained_parameters, widen_trained
from visdyn.training.losses import Consistency

ADAPTERS = ("full", "generation_expert", "lora")
# The seven linear maps of each layer's generation expert; nothing of the understanding expert, no head, no embedding.
LORA_TARGETS = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)"
LORA = {"r": 64, "lora_alpha": 64, "lora_dropout": 0.0}
# Upstream's optimiser; its betas (.9, .95) and clipping at 1 are `fit`'s own.
OPTIMISER = {"adam_epsilon": 1e-15}
COLUMNS = ("step", "loss", "mse", "ce", "consistency")


def train_bagel(
    *,
    base: str,
    output: str,
    recipe: dict,
    scratch: str,
    mixture: Mapping[str, float],
    pairs: str | None = None,
    frames: str | None = None,
    captions: str | None = None,
    frame_pairs: str | None = None,
    questions: str | None = None,
    adapter: str = "lora",
    lora: dict | None = None,
    mse_weight: float = 1.0,
    ce_weight: float = 1.0,
    reweight_ce: bool = False,
    consistency_weight: float | None = None,
    condition: str = "gt",
    space: str = "latent",
    t_gate: float | None = None,
    weight_function: str = "uniform",
    detach: bool = True,
    long_share: float = 1.0,
    timestep_shift: float = 1.0,
    dropout: dict | None = None,
    average_decay: float | None = None,
    latents: str | None = None,
    hardware: dict | None = None,
) -> pd.DataFrame:
    """Fine-tune a BAGEL (Do-Undo, section 3.2) on any mixture of edits, undos, captions and questions.

    Killed at any moment, the same call continues. The memory of a step grows with the square of the tokens in a pack:
    at the public size keep one or two samples on a rank at a time and raise `gradient_accumulation_steps`.

    Args:
        base: folder of a checkpoint (`Bagel.from_pretrained`).
        output: written at the end: a whole checkpoint, or for `lora` an adapter folder of peft; with
            `trained_parameters.csv`, `training.csv`, and the running average, if kept, in `average/` beside them.
        recipe: keys of `visdyn.training.engine.fit.Recipe`; `batch_size` counts samples of any kind. Precision `bf16`
            keeps what trains in float32 and what is frozen in bfloat16, and saves bfloat16.
        scratch: folder for resume state.
        mixture: relative weights of edit, undo, text_to_image, understanding. Any may be left out.
        pairs, frames, captions, frame_pairs, questions: data files, see `bagel_records.read_records`.
        adapter: `full` (all but the fixed position tables and the autoencoder), `generation_expert`, or `lora` on
            the generation expert's linear maps (r 64: 161 M of 14.6 B parameters).
        lora: settings of `peft.LoraConfig`; r 64, lora_alpha 64 by default.
        mse_weight, ce_weight, reweight_ce, timestep_shift: see `BagelObjective`.
        consistency_weight: lambda of Do-Undo(c), 0.5 in the paper; 0 measures L_c only, None leaves it out.
        condition, space, t_gate, weight_function, detach: see `losses.Consistency`.
        long_share: share of reversible pairs shown with their long prompts.
        dropout: probabilities for text, vit and vae; .1, .3, .3 by default, as upstream's training code has them.
        average_decay: of the running average (.9999 upstream, .995 in the BAGEL paper's last stage).
        latents: keeps the autoencoder's posteriors instead of encoding in every step (`posteriors`): `memory`, or a
            folder that runs and ranks share (.93 MB an image at 912 x 512); None encodes.
        hardware: see `fit`; `{"deepspeed": "hardware/deepspeed/zero2.json"}`, `{"activation_checkpointing": True}`.

    Returns:
        the history of `fit` with columns step, loss, mse, ce, consistency.

    Raises:
        ValueError: unknown adapter or option, or one that ZeRO-3 does not allow.
        DatasetError: a data file is missing or malformed.
    """
    settings, hardware = Recipe.of(recipe), resolve_hardware(hardware or {})
    options = None
    if consistency_weight is not None:
        options = Consistency(consistency_weight, condition, space, t_gate, weight_function, detach)
    _check_sharding(hardware, options, average_decay)
    records = read_records(pairs, frames, captions, questions, frame_pairs)
    model = load_base(base, settings)
    torch.manual_seed(settings.seed)
    adapted = apply_adapter(model, adapter, lora)
    if settings.precision == "bf16" and "deepspeed" not in hardware:
        widen_trained(model)  # DeepSpeed keeps float32 masters itself
    drop = Dropout(**{"text": 0.1, "vit": 0.3, "vae": 0.3, **(dropout or {})})
    used = {kind: records[kind] for kind, weight in mixture.items() if weight and kind in records}
    data = BagelMixture(
        used,
        mixture,
        encoder(model),
        model.config,
        settings.steps * settings.batch_size,
        seed=settings.seed,
        dropout=drop,
        long_share=long_share,
        chained=options is not None and condition == "generated",
        posteriors=posterior_cache(latents, model, used),
    )
    accumulation = hardware.get("gradient_accumulation_steps", 1)
    average = None if average_decay is None else RunningAverage(average_decay, accumulation)
    objective = BagelObjective(
        model,
        mse_weight=mse_weight,
        ce_weight=ce_weight,
        reweight_ce=reweight_ce,
        timestep_shift=timestep_shift,
        consistency=options,
        average=average,
    )
    ranks = "deepspeed" in hardware or int(os.environ.get("WORLD_SIZE", "1")) > 1
    whole = ranks or mixture.get("understanding", 0) > 0
    together = partial(collate, config=model.config, dropout=drop, whole=whole)

    def save(history: pd.DataFrame) -> None:
        if average is not None:
            average.update(objective.trained())
        write_trained(Path(output), base, model, adapted, history[list(COLUMNS)], settings, average)

    history = fit(objective, data, settings, scratch, together, {**OPTIMISER, **hardware}, save=save)
    return history[list(COLUMNS)]


def apply_adapter(model: Bagel, adapter: str, lora: dict | None = None) -> nn.Module | None:
    """Choose what trains, in place.

    Returns:
        the peft model around `model` for `lora`, else None.

    Raises:
        ValueError: unknown adapter.
    """
    if adapter not in ADAPTERS:
        raise ValueError(f"unknown adapter {adapter!r}; one of {', '.join(ADAPTERS)}")
    if adapter == "lora":
        from peft import LoraConfig, get_peft_model

        return get_peft_model(model, LoraConfig(target_modules=LORA_TARGETS, **{**LORA, **(lora or {})}))
    for name, parameter in model.named_parameters():
        fixed = name.endswith("pos_embed.pos_embed")
        parameter.requires_grad_(not fixed and (adapter == "full" or is_generation(name)))
    return None


def is_generation(name: str) -> bool:
    """Tell the generation expert (with the maps to and from latents and time) from the rest by a parameter's name."""
    return "_moe_gen" in name or name.startswith(("vae2llm.", "llm2vae.", "time_embedder."))


def load_base(base: str, settings: Recipe) -> Bagel:
    """Load the base straight to this rank's device: eight ranks that build it in host memory need 234 GB of it."""
    device = f"cuda:{os.environ.get('LOCAL_RANK', 0)}" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    return Bagel.from_pretrained(base, dtype=dtype, device=device)


def encoder(model: Bagel) -> Callable[[str], list[int]]:
    """Return text to token ids, without the model: data-loading processes must not hold its weights."""
    if model.tokenizer is None:
        raise ValueError("the base has no tokenizer; add the tokenizer files of BAGEL's checkpoint to its folder")
    return partial(model.tokenizer.encode, add_special_tokens=False)


def _check_sharding(hardware: dict, options: Consistency | None, average_decay: float | None) -> None:
    settings = hardware.get("deepspeed") or {}
    settings = json.loads(Path(settings).read_text()) if isinstance(settings, str) else settings
    if settings.get("zero_optimization", {}).get("stage") != 3:
        return
    if average_decay is not None:
        raise ValueError("ZeRO-3 cuts parameters apart, so no rank can keep a running average; use ZeRO-2")
    if options is not None and options.condition == "generated":
        raise ValueError("ZeRO-3 needs the same passes on all ranks, and only some have undos to chain; use ZeRO-2")


def write_trained(
    output: Path,
    base: str,
    model: Bagel,
    adapted: nn.Module | None,
    history: pd.DataFrame,
    settings: Recipe,
    average: RunningAverage | None,
) -> None:
    """Write the trained model on the first rank; every rank must call this, for sharded weights are gathered."""
    dtype = torch.bfloat16 if settings.precision == "bf16" else torch.float32
    state = gathered(adapted or model, keep=int(os.environ.get("RANK", "0")) == 0, trained_only=adapted is not None)
    if int(os.environ.get("RANK", "0")):
        return
    output.mkdir(parents=True, exist_ok=True)
    listed = pd.DataFrame(trained_parameters(model).items(), columns=["name", "elements"])
    listed.to_csv(output / "trained_parameters.csv", index=False, lineterminator="\n")
    write_history(history, output)
    _write(output, base, model, adapted, state, dtype)
    if average is not None:
        prefix = "" if adapted is None else "base_model.model."
        averaged = {f"{prefix}{name}": value.cpu() for name, value in average.values.items()}
        _write(output / "average", base, model, adapted, {**state, **averaged}, dtype)


def _write(folder: Path, base: str, model: Bagel, adapted, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    if adapted is not None:
        # A model outside transformers has no embedding to look for; peft would ask the hub whether it has.
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        make_portable(folder, base)
        return
    with torch.device("meta"):
        whole = Bagel(model.config)
    whole.load_state_dict({name: value.to(dtype) for name, value in state.items()}, assign=True)
    # DeepSpeed converts the autoencoder with the model; the base's file still has it in full precision.
    whole.vae = load_autoencoder(local_folder(base), model.config, torch.device("cpu"))
    whole.tokenizer, whole.sampling = model.tokenizer, model.sampling
    whole.save_pretrained(folder)
