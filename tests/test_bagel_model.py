"""BAGEL without golden data: names and sizes, training against inference, numbers, checkpoints."""

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
from visdyn.models.bagel.embeddings import patchify, unpatchify
from visdyn.models.bagel.rectified_flow import training_timesteps
from visdyn.models.bagel.sampler import Branches, sample_latents
from visdyn.training.losses import rectified_flow_loss


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
    assert vlm.velocity is None
    assert edit.ce is None


def test_candidates_share_one_context():
    model = small_model(vision=False)
    context = contexts.add_text(model, contexts.new_context(model), [5, 6])
    empty = contexts.new_context(model)
    noise, settings = torch.randn(3, 4, 16), SamplerSettings(num_timesteps=3)
    together = sample_latents(model, Branches(context, empty, context), (2, 2), noise, settings)
    alone = sample_latents(model, Branches(context, empty, context), (2, 2), noise[1:2], settings)
    torch.testing.assert_close(together[1:2], alone, atol=1e-5, rtol=0)


def test_gradient_checkpointing_changes_nothing():
    model = small_model()
    sample = edit_sample([picture(24, 16), picture(24, 16, 1)], [[7, 8, 9]], model.config)
    pack = pack_samples([sample], model.config, timestep_draws=[0.3])
    latents, noise = torch.randn(2, 4, 8, 12), torch.randn(48, 16)
    gradients = []
    for switch in (model.gradient_checkpointing_disable, model.gradient_checkpointing_enable):
        switch()
        model.zero_grad()
        model(pack, latents=latents, noise=noise).velocity.square().mean().backward()
        gradients.append(model.vae2llm.weight.grad.clone())
    assert gradients[0].abs().max() > 0
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
            context = contexts.add_text(model, contexts.new_context(model), [7, 8])
            empty, settings = contexts.new_context(model), SamplerSettings(num_timesteps=3)
            sampled = sample_latents(model, Branches(context, empty, context), (2, 2), noise[None, :4], settings)
    assert rectified_flow_loss(rounded.velocity, rounded.clean, rounded.noise).dtype == torch.float32
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
