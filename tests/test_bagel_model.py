"""BAGEL without golden data: names and sizes, training against inference, the batched path, checkpoints."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from visdyn.models.bagel import (
    Autoencoder,
    AutoencoderConfig,
    Bagel,
    BagelConfig,
    Dropout,
    Part,
    SamplerSettings,
    SpecialTokens,
    TextConfig,
    TransformConfig,
    VisionConfig,
    edit_sample,
    generate_image,
    generate_text,
    pack_samples,
    text_to_image_sample,
    understanding_sample,
)
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel.edit_batch import forward_edit_batch, sample_edit_batch
from visdyn.models.bagel.embeddings import patchify, unpatchify
from visdyn.models.bagel.rectified_flow import estimate_clean, training_timesteps
from visdyn.models.bagel.sampler import Branches, sample_latents


def small_config(vision: bool = True) -> BagelConfig:
    return BagelConfig(
        text=TextConfig(40, 32, 48, 2, 4, 2),
        vision=VisionConfig(16, 24, 2, 2, image_size=56) if vision else None,
        autoencoder=AutoencoderConfig(ch=8, ch_mult=(1, 2), num_res_blocks=1, z_channels=4, norm_groups=4),
        latent_patch_size=2,
        max_latent_size=8,
        vit_max_num_patch_per_side=4,
        special_tokens=SpecialTokens(1, 2, 3, 4),
        transforms={
            "vae": TransformConfig(32, 16, 4),
            "vit": TransformConfig(56, 14, 14),
            "vlm_vit": TransformConfig(56, 28, 14),
        },
    )


def small_model(vision: bool = True, seed: int = 0) -> Bagel:
    """Return a model all of whose weights matter: nothing zero, norms away from one."""
    torch.manual_seed(seed)
    config = small_config(vision)
    model = Bagel(config, Autoencoder(config.autoencoder).requires_grad_(False).eval())
    for name, parameter in model.named_parameters():
        if "pos_embed" not in name:
            parameter.data.normal_(1.0 if "norm" in name and "weight" in name else 0.0, 0.15)
    return model.eval()


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_public_size_has_the_public_names():
    with torch.device("meta"):
        model = Bagel(BagelConfig())
    state = model.state_dict()
    assert len(state) == 1223
    assert sum(name.startswith("language_model.") for name in state) == 788
    assert sum(tensor.numel() for tensor in state.values()) == 14_607_260_128
    # 27.21 GiB is the size of the public ema.safetensors in bfloat16.
    assert sum(t.numel() for t in state.values()) * 2 / 2**30 == pytest.approx(27.21, abs=0.005)
    assert tuple(state["vit_model.vision_model.embeddings.patch_embedding.weight"].shape) == (1152, 588)
    assert tuple(state["latent_pos_embed.pos_embed"].shape) == (4096, 3584)
    assert tuple(state["llm2vae.weight"].shape) == (64, 3584)
    for name in [n for n in state if ".layers." in n and "moe_gen" not in n and n.startswith("language_model")]:
        module, _, tail = name.partition(".layers.")[2].partition(".")[2].rpartition(".")
        parts = module.split(".")
        parts[0 if parts[0] == "mlp" else -1] += "_moe_gen"
        twin = f"{name.split('.layers.')[0]}.layers.{name.split('.layers.')[1].split('.')[0]}.{'.'.join(parts)}.{tail}"
        assert state[twin].shape == state[name].shape


def test_import_needs_no_flash_attention_network_or_accelerator():
    code = (
        "import sys; import visdyn.models.bagel; import torch;"
        "assert 'flash_attn' not in sys.modules and 'diffusers' not in sys.modules;"
        "assert not torch.cuda.is_initialized()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_training_velocity_equals_cached_velocity():
    model = small_model()
    sample = edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8, 9]], model.config)
    pack = pack_samples([sample], model.config, timestep_draws=[0.3])
    torch.manual_seed(1)
    latents, noise = torch.randn(2, 4, 8, 12), torch.randn(48, 16)
    with torch.no_grad():
        output = model(pack, latents=latents, noise=noise, timestep_shift=3.0)
        context = contexts.add_vae_image(model, contexts.new_context(model), latents[:1])
        context = contexts.add_vit_image(model, context, sample[1].content.unsqueeze(0))
        context = contexts.add_text(model, context, [7, 8, 9])
        t = training_timesteps(torch.tensor(0.3), 3.0)
        cached = contexts.velocity(model, context, output.noised.unsqueeze(0), t, pack.latent_position_ids[24:])
    assert output.velocity.abs().mean() > 0.05
    torch.testing.assert_close(cached[0], output.velocity, atol=5e-5, rtol=0)


def test_packing_does_not_change_a_sample():
    model = small_model()
    config = model.config
    samples = [
        edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8]], config),
        text_to_image_sample([9, 10, 11], picture(16, 16, 2), config),
        understanding_sample(picture(30, 20, 3), [5], [6, 7], config),
    ]
    torch.manual_seed(2)
    latents = torch.randn(3, 4, 8, 12)
    noise = torch.randn(24 * 2 + 16, 16)
    with torch.no_grad():
        whole = model(pack_samples(samples, config, timestep_draws=[0.1, -0.4]), latents=latents, noise=noise)
        edit = model(pack_samples(samples[:1], config, timestep_draws=[0.1]), latents=latents[:2], noise=noise[:48])
        t2i = model(pack_samples(samples[1:2], config, timestep_draws=[-0.4]), latents=latents[2:], noise=noise[48:])
        vlm = model(pack_samples(samples[2:], config))
    torch.testing.assert_close(whole.velocity, torch.cat([edit.velocity, t2i.velocity]), atol=1e-5, rtol=0)
    torch.testing.assert_close(whole.ce, vlm.ce, atol=1e-5, rtol=0)
    assert vlm.mse is None
    assert edit.ce is None


BATCH_CASES = {
    "plain": {},
    "padded": {"text_lengths": [2, 4, 3]},
    "dropped": {"text_lengths": [2, 4, 3], "drop_text": [1, 0, 0], "drop_source": [0, 1, 0]},
    "dropped_vit": {"drop_vit": [0, 1, 1], "drop_text": [1, 1, 0]},
}


@pytest.mark.parametrize("case", BATCH_CASES)
@pytest.mark.parametrize("vision", [False, True])
def test_batched_edits_equal_packed_edits(case, vision):
    options = {k: torch.tensor(v, dtype=torch.int64) for k, v in BATCH_CASES[case].items()}
    options = {k: v.bool() if "drop" in k else v for k, v in options.items()}
    if not vision:
        options.pop("drop_vit", None)
    model = small_model(vision)
    torch.manual_seed(3)
    source, target, noise = (torch.randn(3, 4, 8, 12) for _ in range(3))
    text, raw = torch.randint(5, 40, (3, 4)), torch.randn(3)
    pixels = torch.rand(3, 3, 28, 42) * 2 - 1
    if vision:
        options["source_pixels"] = pixels
    batched = forward_edit_batch(model, source, text, target, training_timesteps(raw, 2.0), noise, **options)
    batched.loss().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    rows = []
    for row in range(3):
        rows.append(packed_row(model, row, source, text, target, raw, noise, pixels if vision else None, options))
    torch.stack([output.loss() for output in rows]).mean().backward()
    for row, output in enumerate(rows):
        torch.testing.assert_close(batched.velocity[row], output.velocity, atol=2e-5, rtol=0)
        torch.testing.assert_close(batched.mse[row], output.mse, atol=1e-4, rtol=1e-4)
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            # The batched path does not compute what nothing depends on; there packing gives zero gradients.
            gradient = gradients.get(name, torch.zeros_like(parameter))
            torch.testing.assert_close(gradient, parameter.grad, atol=2e-5, rtol=1e-3)


def packed_row(model, row, source, text, target, raw, noise, pixels, options):
    """Return the packed path's output of one row of a batch."""
    ids = text[row, : options["text_lengths"][row] if "text_lengths" in options else None].tolist()
    blank = torch.zeros(3, 16, 24)
    parts = [Part("vae", blank, droppable=True)]
    if pixels is not None:
        parts.append(Part("vit", pixels[row], droppable=True))
    parts += [Part("text", ids, droppable=True), Part("vae", blank, loss=True)]
    drops = [options.get(name, torch.zeros(3))[row] for name in ("drop_source", "drop_vit", "drop_text")]
    drops = drops if pixels is not None else [drops[0], drops[2]]
    pack = pack_samples(
        [parts],
        model.config,
        Dropout(0.5, 0.5, 0.5),
        dropout_draws=[0.0 if drop else 1.0 for drop in drops],
        timestep_draws=[float(raw[row])],
    )
    latents = [source[row], target[row]] if not drops[0] else [target[row]]
    tokens = patchify(noise[row], 2)
    return model(pack, latents=torch.stack(latents), noise=torch.cat([tokens] * len(latents)), timestep_shift=2.0)


def test_batched_sampling_equals_one_by_one():
    model = small_model()
    torch.manual_seed(4)
    source, noise = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    text, lengths, pixels = torch.randint(5, 40, (2, 4)), torch.tensor([2, 4]), torch.rand(2, 3, 28, 28)
    settings = SamplerSettings(num_timesteps=4, cfg_renorm_type="global")
    both = sample_edit_batch(model, source, text, noise, settings, text_lengths=lengths, source_pixels=pixels)
    for row in range(2):
        one = slice(row, row + 1)
        alone = sample_edit_batch(
            model, source[one], text[one, : lengths[row]], noise[one], settings, source_pixels=pixels[one]
        )
        torch.testing.assert_close(both[one], alone, atol=5e-5, rtol=0)


def test_candidates_share_one_context():
    model = small_model(vision=False)
    context = contexts.add_text(model, contexts.new_context(model), [5, 6])
    empty = contexts.new_context(model)
    noise, settings = torch.randn(3, 4, 16), SamplerSettings(num_timesteps=3)
    together = sample_latents(model, Branches(context, empty, context), (2, 2), noise, settings)
    alone = sample_latents(model, Branches(context, empty, context), (2, 2), noise[1:2], settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_consistency_identity_of_the_one_step_estimate():
    """|estimate - x_0| = t |v_hat - v|, the identity behind the latent consistency loss."""
    model = small_model(vision=False)
    source, target, noise = (torch.randn(2, 4, 8, 8) for _ in range(3))
    output = forward_edit_batch(model, source, torch.full((2, 3), 7), target, torch.tensor([0.2, 0.9]), noise)
    error = estimate_clean(output.noised, output.velocity, output.timesteps) - output.clean
    scaled = output.timesteps.unsqueeze(-1) * (output.velocity - output.velocity_target)
    torch.testing.assert_close(error.abs(), scaled.abs(), atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    model = small_model(vision=False)
    source, target, noise = (torch.randn(2, 4, 8, 8) for _ in range(3))
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        forward_edit_batch(
            model, source, torch.full((2, 3), 7), target, torch.tensor([0.2, 0.9]), noise
        ).loss().backward()
        gradients.append(model.vae2llm.weight.grad.clone())
    torch.testing.assert_close(*gradients)


def test_frozen_autoencoder_follows_the_model_but_is_no_part_of_it():
    model = small_model()
    assert not any(name.startswith("vae") and name.split(".")[0] != "vae2llm" for name in model.state_dict())
    assert model.to(torch.float64).vae.dtype == torch.float64
    assert not any(p.requires_grad for p in model.vae.parameters())


@pytest.mark.parametrize("autocast", [False, True])
def test_bfloat16_stays_near_float32(autocast):
    model = small_model()
    sample = edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8, 9]], model.config)
    pack = pack_samples([sample], model.config, timestep_draws=[0.3])
    latents, noise = torch.randn(2, 4, 8, 12), torch.randn(48, 16)
    with torch.no_grad():
        exact = model(pack, latents=latents, noise=noise)
        model = model if autocast else model.to(torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            rounded = model(pack, latents=latents, noise=noise)
            settings = SamplerSettings(num_timesteps=3)
            sampled = sample_edit_batch(model, latents[:1], torch.tensor([[7, 8]]), latents[1:], settings)
    assert rounded.mse.dtype == torch.float32
    assert sampled.isfinite().all()
    error = (rounded.velocity.float() - exact.velocity).norm() / exact.velocity.norm()
    assert 0 < error < 0.05


def test_generate_image_and_text_end_to_end():
    model = small_model()
    settings = SamplerSettings(num_timesteps=3)
    images = generate_image(
        model, [picture(30, 17), [7, 8]], settings=settings, num_images=2, generator=torch.Generator().manual_seed(0)
    )
    again = generate_image(
        model, [picture(30, 17), [7, 8]], settings=settings, num_images=2, generator=torch.Generator().manual_seed(0)
    )
    assert [image.size for image in images] == [(32, 16), (32, 16)]
    assert all(np.array_equal(a, b) for a, b in zip(images, again, strict=True))
    assert not np.array_equal(*images)
    assert len(generate_text(model, [picture(30, 30), [7, 8]], max_length=5).logits) <= 5
    with pytest.raises(ValueError, match="image_size"):
        generate_image(model, [[7, 8]])
    with pytest.raises(RuntimeError, match="no tokenizer"):
        generate_text(model, ["what is this?"])


def test_unpatchify_undoes_patchify():
    maps = torch.randn(2, 3, 4, 6, 10)
    assert torch.equal(unpatchify(patchify(maps, 2), (3, 5), 2), maps)
    token = patchify(maps, 2)[0, 0, 0]
    assert torch.equal(token, torch.stack([maps[0, 0, :, r, c] for r in (0, 1) for c in (0, 1)]).flatten())
