"""Recipes for BAGEL: which parameters train, on which mixture, and how the result is saved."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from visdyn.models.adapters import make_portable
from visdyn.models.bagel import Bagel, Dropout
from visdyn.models.bagel.checkpoint import load_autoencoder, local_folder
from visdyn.models.strict_load import load_state, require_finite
from visdyn.params.doundo import BagelFineTuning
from visdyn.readers import read_json
from visdyn.training.bagel.mixture import BagelMixture, collate
from visdyn.training.bagel.objective import BagelObjective, RunningAverage
from visdyn.training.bagel.posteriors import posterior_cache
from visdyn.training.bagel.records import BagelData, read_records
from visdyn.training.engine.fit import Recipe, fit, write_history
from visdyn.training.engine.sharding import gathered, resolve_hardware, trained_parameters, widen_trained

ADAPTERS = ("full", "generation_expert", "lora")
# The seven linear maps of each layer's generation expert; nothing of the understanding expert, no head, no embedding.
LORA_TARGETS = r".*\.layers\.\d+\.(self_attn\.[qkvo]_proj_moe_gen|mlp_moe_gen\.(gate|up|down)_proj)"
LORA = {"r": 64, "lora_alpha": 64, "lora_dropout": 0.0}
# Upstream's optimiser; its betas (.9, .95) and clipping at 1 are `fit`'s own.
OPTIMISER = {"adam_epsilon": 1e-15}
COLUMNS = ("step", "loss", "mse", "ce", "consistency")


def train_bagel(
    config: BagelFineTuning, data: BagelData, *, seed: int, output: str, scratch: str, hardware: dict | None = None
) -> pd.DataFrame:
    """Fine-tune a BAGEL (Do-Undo, section 3.2) on any mixture of edits, undos, captions and questions.

    Killed at any moment, the same call continues. The memory of a step grows with the square of the tokens in a pack:
    at the public size keep one or two samples on a rank at a time and raise `gradient_accumulation_steps`.

    Args:
        config: what is trained and how, section `doundo` of params.yaml.
        data: the files of the records.
        seed: of the order of samples, their noise, timesteps and dropped conditions.
        output: written at the end: a whole checkpoint, or for `lora` an adapter folder of peft; with
            `trained_parameters.csv`, `training.csv`, and the moving average, if kept, in `average/` beside them.
        scratch: folder for resume state.
        hardware: see `fit`; `{"deepspeed": "hardware/deepspeed/zero2.json"}`, `{"activation_checkpointing": True}`.

    Returns:
        the history of `fit` with columns step, loss, mse, ce, consistency.

    Raises:
        ValueError: unknown adapter or option, or one that ZeRO-3 does not allow.
        DatasetError: a data file is missing or malformed.
    """
    settings, hardware = Recipe.of({**asdict(config.training), "seed": seed}), resolve_hardware(hardware or {})
    _check_sharding(hardware, config)
    records = read_records(**asdict(data))
    model = load_base(config.base, settings)
    torch.manual_seed(seed)
    lora = config.lora and {
        "r": config.lora.rank, "lora_alpha": config.lora.alpha, "lora_dropout": config.lora.dropout
    }  # fmt: skip
    adapted = apply_adapter(model, config.adapter, lora)
    if settings.precision == "bf16" and "deepspeed" not in hardware:
        widen_trained(model)  # DeepSpeed keeps float32 masters itself
    drop, mixture = Dropout(**asdict(config.dropout)), asdict(config.mixture)
    # In the order of reading: images are encoded in batches of it, and a batch decides an encoding's last bits.
    used = {kind: rows for kind, rows in records.items() if mixture[kind]}
    samples = BagelMixture(
        used,
        mixture,
        encoder(model),
        model.config,
        settings.steps * settings.batch_size,
        seed=seed,
        dropout=drop,
        long_share=config.long_share,
        chained=config.consistency is not None and config.consistency.condition == "generated",
        originals=config.consistency is not None and config.consistency.space == "pixel",
        posteriors=posterior_cache(config.latents, model, used),
    )
    accumulation = hardware.get("gradient_accumulation_steps", 1)
    average = None if config.average_decay is None else RunningAverage(config.average_decay, accumulation)
    objective = BagelObjective(
        model,
        mse_weight=config.mse_weight,
        ce_weight=config.ce_weight,
        reweight_ce=config.reweight_ce,
        timestep_shift=config.timestep_shift,
        consistency=config.consistency,
        average=average,
    )
    ranks = "deepspeed" in hardware or int(os.environ.get("WORLD_SIZE", "1")) > 1
    whole = ranks or mixture["understanding"] > 0
    together = partial(collate, config=model.config, dropout=drop, whole=whole)

    def save(history: pd.DataFrame) -> None:
        if average is not None:
            average.update(objective.trained())
        write_trained(Path(output), config.base, model, adapted, history[list(COLUMNS)], settings, average)

    history = fit(objective, samples, settings, scratch, together, {**OPTIMISER, **hardware}, save=save)
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


def _check_sharding(hardware: dict, config: BagelFineTuning) -> None:
    settings = hardware.get("deepspeed") or {}
    settings = read_json(settings, dict) if isinstance(settings, str) else settings
    if settings.get("zero_optimization", {}).get("stage") != 3:
        return
    if config.average_decay is not None:
        raise ValueError("ZeRO-3 cuts parameters apart, so no rank can keep a running average; use ZeRO-2")
    if config.consistency is not None and config.consistency.condition == "generated":
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
    _write_model(output, base, model, adapted, state, dtype)
    if average is not None:
        prefix = "" if adapted is None else "base_model.model."
        averaged = {f"{prefix}{name}": value.cpu() for name, value in average.values.items()}
        _write_model(output / "average", base, model, adapted, {**state, **averaged}, dtype)


def _write_model(folder: Path, base: str, model: Bagel, adapted, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    if adapted is not None:
        require_finite(state, folder)
        # A model outside transformers has no embedding to look for; peft would ask the hub whether it has.
        adapted.peft_config["default"].base_model_name_or_path = base
        adapted.save_pretrained(str(folder), state_dict=state, save_embedding_layers=False)
        make_portable(folder, base)
        return
    with torch.device("meta"):
        whole = Bagel(model.config)
    load_state(whole, {name: value.to(dtype) for name, value in state.items()}, folder)
    # DeepSpeed converts the autoencoder with the model; the base's file still has it in full precision.
    whole.vae = load_autoencoder(local_folder(base), model.config, torch.device("cpu"))
    whole.tokenizer, whole.sampling = model.tokenizer, model.sampling
    whole.save_pretrained(folder)
