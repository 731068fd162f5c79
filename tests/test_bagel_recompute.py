"""Recomputes BAGEL's golden tensors under their golden names; `test_bagel_golden.py` compares them.

Every function `*_outputs` covers one group. `test_bagel_mutations.py` reuses them on code broken on purpose.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from plain_losses import flow_loss, total_loss
from safetensors.torch import load_file

from visdyn.models.bagel import (
    Bagel,
    Dropout,
    SamplerSettings,
    edit_sample,
    pack_samples,
    sampler,
    text_to_image_sample,
    transforms,
    understanding_sample,
)
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel import text_decoding as text
from visdyn.models.bagel.embeddings import grid_position_ids, patchify, sincos_2d, timestep_sinusoid, unpatchify
from visdyn.models.bagel.forward_pack import NoisedLatents
from visdyn.models.bagel.mask import MODES
from visdyn.paths import shared_data

FOLDER = (shared_data() or Path("shared")) / "golden" / "bagel"
needs_golden = pytest.mark.skipif(
    not (FOLDER / "outputs.safetensors").is_file(),
    reason="golden tensors (golden/bagel in the shared data folder, VISDYN_SHARED) are not here",
)
TOLERANCE = 1e-4
TRAIN = ("mixed", "edit_pair", "edit_drop_vae", "vlm", "t2i")
PACKS = ("edit", "edit_pair", "vlm", "t2i", "multiturn", "mixed", "edit_drop_text", "edit_drop_vae")
PACKS += ("edit_drop_vit", "edit_drop_all", "multiturn_drop")
INFER = ("edit_global", "edit_channel", "edit_text_channel", "edit_cfg_off", "edit_interval", "edit_text_only_global")
INFER += ("edit_text_only_text_channel", "edit_img_only", "edit_renorm_min", "edit_sampled", "t2i", "interleaved")
UNDERSTAND = ("main", "eos")


@cache
def read_json(name: str) -> dict:
    return json.loads((FOLDER / f"{name}.json").read_text())


@cache
def read_tensors(name: str) -> dict[str, torch.Tensor]:
    return load_file(FOLDER / f"{name}.safetensors")


@cache
def golden_model() -> Bagel:
    return Bagel.from_pretrained(FOLDER)


@cache
def image(letter: str) -> Image.Image:
    return Image.fromarray(read_tensors("inputs")[f"image.{letter}"].numpy())


def golden_sample(name: str):
    spec, config = read_json("inputs")["samples"][name], golden_model().config
    images = [image(letter) for letter in spec["images"]]
    if spec["kind"] == "edit":
        return edit_sample(images, spec["texts"], config)
    if spec["kind"] == "t2i":
        return text_to_image_sample(spec["texts"][0], images[0], config)
    return understanding_sample(images[0], *spec["texts"], config)


def golden_pack(case: str):
    spec = read_json("inputs")["packs"][case]
    dropout = Dropout(*(spec[f"{kind}_cond_dropout_prob"] for kind in ("text", "vit", "vae")))
    return pack_samples(
        [golden_sample(name) for name in spec["samples"]],
        golden_model().config,
        dropout,
        dropout_draws=spec["dropout_draws"],
        timestep_draws=spec["timestep_draws"],
    )


def pack_outputs(case: str) -> dict[str, torch.Tensor]:
    pack = golden_pack(case)
    values = {
        "attention_mask": pack.attention_mask(),
        "attn_modes": torch.tensor([MODES.index(mode) for mode in pack.split_modes]),
        "ce_loss_indexes": pack.ce_index,
        "ce_loss_weights": pack.ce_weights,
        "mse_loss_indexes": pack.mse_index,
        "packed_label_ids": pack.ce_labels,
        "packed_latent_position_ids": pack.latent_position_ids,
        "packed_position_ids": pack.position_ids,
        "packed_text_ids": pack.text_ids,
        "packed_text_indexes": pack.text_index,
        "packed_timesteps": pack.raw_timesteps,
        "packed_vae_token_indexes": pack.latent_index,
        "packed_vit_position_ids": pack.vit_position_ids,
        "packed_vit_token_indexes": pack.vit_index,
        "packed_vit_tokens": pack.vit_tokens,
        "padded_images": torch.zeros(0) if pack.images is None else pack.images,
        "patchified_vae_latent_shapes": torch.tensor(pack.latent_shapes, dtype=torch.int64),
        "sample_lens": torch.tensor(pack.sample_lengths),
        "sequence_length": torch.tensor(len(pack)),
        "split_lens": torch.tensor(pack.split_lengths),
        "vit_token_seqlens": torch.tensor(pack.vit_lengths, dtype=torch.int64),
    }
    # Two float tensors are not stored for the larger packs, and empty ones never are.
    stored = read_tensors("outputs")
    keep = {name: v for name, v in values.items() if f"pack.{case}.{name}" in stored or v.numel()}
    unstored = {"packed_vit_tokens", "padded_images"} if case == "mixed" or "drop" in case else set()
    return {f"pack.{case}.{name}": value for name, value in keep.items() if name not in unstored}


def train_forward(model: Bagel, case: str):
    """Return the pack and the training output of a golden run."""
    spec, tensors = read_json("inputs")["train"][case], read_tensors("inputs")
    pack = golden_pack(spec["pack"])
    return pack, model(
        pack,
        noise=tensors.get(f"train.{case}.noise"),
        posterior_noise=tensors.get(f"train.{case}.vae_posterior_noise"),
        timestep_shift=spec["timestep_shift"],
    )


def train_outputs(case: str) -> dict[str, torch.Tensor]:
    model, tensors = golden_model(), read_tensors("inputs")
    pack, output = train_forward(model, case)
    model.zero_grad(set_to_none=True)
    total_loss(output).backward()
    values = {"last_hidden_state": output.hidden}
    if output.ce is not None:
        values |= {"ce": output.ce, "ce_logits": output.ce_logits}
    if output.velocity is not None:
        latents = model.vae.encode(pack.images, tensors[f"train.{case}.vae_posterior_noise"])
        shift = read_json("inputs")["train"][case]["timestep_shift"]
        tokens = NoisedLatents(model, pack, latents, tensors[f"train.{case}.noise"], shift, None)
        values |= {
            "mse": flow_loss(output, "none"),
            "velocity_pred": output.velocity,
            "velocity_target": output.noise - output.clean,
            "padded_latent": latents,
            "packed_latent_clean": tokens.clean,
            "packed_latent_noised": tokens.noised,
            "packed_timesteps": tokens.timesteps,
        }
    if case == "mixed":
        stored = [name for name in read_tensors("outputs") if name.startswith("train.mixed.grad.")]
        parameters = dict(model.named_parameters())
        values |= {f"grad.{n.split('.grad.')[1]}": parameters[n.split(".grad.")[1]].grad for n in stored}
    return {f"train.{case}.{name}": value for name, value in values.items()}


def vae_outputs() -> dict[str, torch.Tensor]:
    vae, tensors, config = golden_model().vae, read_tensors("inputs"), golden_model().config
    outputs = {"vae.random_latent.decoded": vae.decode(tensors["vae.random_latent"])}
    for shape, letter in read_json("inputs")["vae"].items():
        pixels = transforms.transform(image(letter), config.transforms["vae"]).unsqueeze(0)
        values = {
            "image": pixels,
            "moments": vae.moments(pixels),
            "latent_mode": vae.encode(pixels),
            "latent_sample": vae.encode(pixels, tensors[f"vae.{shape}.posterior_noise"]),
            "decoded_from_mode": vae.decode(vae.encode(pixels)),
        }
        outputs |= {f"vae.{shape}.{name}": value for name, value in values.items()}
    return outputs


def vit_outputs() -> dict[str, torch.Tensor]:
    model, config = golden_model(), golden_model().config
    outputs, packed = {}, []
    for shape, letter in read_json("inputs")["vit"].items():
        pixels = transforms.transform(image(letter), config.transforms["vit"])
        ids = grid_position_ids(pixels.shape[1] // 14, pixels.shape[2] // 14, config.vit_max_num_patch_per_side)
        patches = patchify(pixels, 14)
        packed.append((patches, ids))
        outputs |= {f"vit.{shape}.image": pixels, f"vit.{shape}.patches": patches, f"vit.{shape}.position_ids": ids}
        outputs |= _vit_features(model, shape, [(patches, ids)])
    return outputs | _vit_features(model, "packed", packed)


def _vit_features(model: Bagel, name: str, images: list) -> dict[str, torch.Tensor]:
    patches, ids = (torch.cat([pair[i] for pair in images]) for i in (0, 1))
    lengths = [len(ids) for _, ids in images]
    features = model.vit_model(patches, ids, lengths)
    values = {
        "features": features,
        "connector": model.connector(features),
        "embed": model.embed_vit(patches, ids, lengths),
        "seqlens": torch.tensor(lengths),
    }
    return {f"vit.{name}.{key}": value for key, value in values.items()}


def infer_outputs(case: str) -> dict[str, torch.Tensor]:
    model, spec, tensors = golden_model(), read_json("inputs")["infer"][case], read_tensors("inputs")
    settings = SamplerSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec["settings"].items()})
    noise = [tensors[spec["posterior_noise"]]] if spec["vae_posterior"] == "noise" else None
    inputs = [image(value) if kind == "image" else value for kind, value in spec["inputs"]]
    branches, _ = sampler.read_inputs(model, inputs, noise)
    grid = tuple(side // model.config.latent_downsample for side in spec["image_shape"])
    trace: list[dict] = []
    final = sampler.sample_latents(model, branches, grid, tensors[spec["init_noise"]][None], settings, trace)[0]
    latent = unpatchify(final, grid, model.config.latent_patch_size)[None]
    with torch.no_grad():
        decoded = model.vae.decode(latent)
    values = {
        "final_latent": final,
        "vae_latent": latent,
        "decoded": decoded,
        "image": torch.from_numpy(np.array(sampler.decode_images(model, latent)[0])),
        "timesteps": torch.tensor([step["t"] for step in trace]),
        "velocity": torch.cat([step["velocity"] for step in trace]),
        "x_t": torch.cat([*(step["x_t"] for step in trace), final[None]]),
        "cfg_active": torch.tensor([len(step["branches"]) > 1 for step in trace]),
    }
    values |= _branch_outputs(model, case, branches, grid, trace, settings)
    if read_json("outputs")[f"infer.{case}.context_of_run"] == case:
        values |= _context_outputs(branches) | _index_outputs(model, branches, grid)
    return {f"infer.{case}.{name}": value for name, value in values.items()}


def _branch_outputs(model, case, branches, grid, trace, settings) -> dict[str, torch.Tensor]:
    step = trace[read_json("outputs")[f"infer.{case}.branch_step"]]
    values = {f"branch.{name}": value[0] for name, value in step["branches"].items()}
    if settings.cfg_img_scale > 1 and "branch.cfg_img" not in values:
        # The reference evaluates this branch although it does not use it without text guidance; ours skips it.
        ids = grid_position_ids(*grid, model.config.max_latent_size)
        with torch.no_grad():
            t = torch.tensor(step["t"])
            values["branch.cfg_img"] = contexts.velocity(model, branches.cfg_img, step["x_t"], t, ids)[0]
    return values


def _context_outputs(branches) -> dict[str, torch.Tensor]:
    values = {}
    for name in ("gen", "cfg_text", "cfg_img"):
        context = getattr(branches, name)
        values[f"context.{name}.kv_lens"] = torch.tensor([len(context)])
        values[f"context.{name}.ropes"] = context.position
        for index, (keys, cached) in enumerate(context.layers):
            values[f"context.{name}.key_cache.{index}"] = keys[0].transpose(0, 1)
            values[f"context.{name}.value_cache.{index}"] = cached[0].transpose(0, 1)
    return values


def _index_outputs(model, branches, grid) -> dict[str, torch.Tensor]:
    """Return the reference's index tensors for the target block; with one sequence most are plain ranges."""
    special, count = model.config.special_tokens, grid[0] * grid[1]
    values = {
        "packed_seqlens": torch.tensor([count + 2], dtype=torch.int32),
        "packed_text_ids": torch.tensor([special.start_of_image, special.end_of_image]),
        "packed_text_indexes": torch.tensor([0, count + 1]),
        "packed_vae_token_indexes": torch.arange(1, count + 1),
        "packed_vae_position_ids": grid_position_ids(*grid, model.config.max_latent_size),
    }
    for name, prefix, query in (
        ("gen", "", "packed_indexes"),
        ("cfg_text", "cfg_text_", "packed_query_indexes"),
        ("cfg_img", "cfg_img_", "packed_query_indexes"),
    ):
        context = getattr(branches, name)
        values |= {
            f"{prefix}key_values_lens": torch.tensor([len(context)], dtype=torch.int32),
            f"{prefix}packed_key_value_indexes": torch.arange(len(context)),
            f"{prefix}packed_position_ids": context.position.repeat(count + 2),
            f"{prefix}{query}": torch.arange(len(context), len(context) + count + 2),
        }
    return {f"generate_image.{name}": value for name, value in values.items()}


def understand_outputs(case: str) -> dict[str, torch.Tensor]:
    model, spec = golden_model(), read_json("inputs")["understand"][case]
    inputs = [image(value) if kind == "image" else value for kind, value in spec["inputs"]]
    answer = text.generate_text(model, inputs, max_length=spec["max_length"])
    return {
        f"understand.{case}.logits": answer.logits,
        f"understand.{case}.next_tokens": answer.logits.argmax(-1),
        f"understand.{case}.tokens": torch.tensor([model.config.special_tokens.bos_token_id, *answer.ids]),
    }


def fixed_outputs() -> dict[str, torch.Tensor]:
    model, tensors, spec = golden_model(), read_tensors("inputs"), read_json("inputs")["fixed"]
    times = tensors["fixed.timesteps"]
    values = {
        "latent_pos_embed": sincos_2d(64, 8),
        "vit_pos_embed": sincos_2d(64, 5),
        "timestep_sinusoid": timestep_sinusoid(times),
        "timestep_embedding": model.time_embedder(times),
    }
    for name, side in (("latent", 64), ("vit", 70)):
        rows = torch.tensor(spec["position_table_rows"][name])
        values |= {f"{name}_full.rows": rows, f"{name}_full.pos_embed_rows": sincos_2d(3584, side)[rows]}
    for count, shift in spec["schedules"]:
        timesteps, steps = flow.sampling_schedule(count, shift)
        name = f"schedule.n{count}_shift{shift:g}"
        values |= {f"{name}.timesteps": timesteps, f"{name}.dts": steps}
    for shift in spec["train_shifts"]:
        drawn = flow.training_timesteps(tensors["fixed.timestep_normals"], shift)
        values[f"train_timesteps.shift{shift:g}"] = drawn
    return {f"fixed.{name}": value for name, value in values.items()}


def differences(values: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the largest absolute difference per tensor; inf where shape or type differ."""
    golden, found = read_tensors("outputs"), {}
    for name, value in values.items():
        expected, value = golden[name], value.detach()
        if value.shape != expected.shape or value.dtype != expected.dtype:
            found[name] = float("inf")
        elif expected.numel() == 0 or torch.equal(value, expected):
            found[name] = 0.0
        else:
            # inf - inf is nan for the -inf timesteps, and a nan counts as different.
            gap = (value.double() - expected.double()).abs()
            found[name] = gap[value != expected].nan_to_num(nan=float("inf")).max().item()
    return found


def allowed(name: str) -> float:
    """Return how far a value may be off: floats 1e-4, decoded bytes one level, all else nothing."""
    dtype = read_tensors("outputs")[name].dtype
    if dtype == torch.uint8:
        return 1
    exact = name.startswith("pack.") or not dtype.is_floating_point
    return 0 if exact else TOLERANCE


def assert_equal_to_golden(values: dict[str, torch.Tensor]) -> None:
    off = {name: gap for name, gap in differences(values).items() if gap > allowed(name)}
    assert not off, f"{len(off)} of {len(values)} tensors differ: {dict(list(off.items())[:8])}"
