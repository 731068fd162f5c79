"""Image generation: Euler steps along the velocity, guided by up to two further branches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from PIL import Image
from torch import Tensor

from visdyn.images import load
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel.config import SamplerSettings
from visdyn.models.bagel.context import Context
from visdyn.models.bagel.embeddings import unpatchify
from visdyn.models.bagel.transforms import resize, transform

if TYPE_CHECKING:
    from visdyn.models.bagel.model import Bagel


@dataclass(frozen=True)
class Branches:
    """Contexts of the three velocity branches: everything, all before the last text, texts only."""

    gen: Context
    cfg_text: Context
    cfg_img: Context


def guide(plain: Tensor, without_text: Tensor, without_image: Tensor | None, settings: SamplerSettings) -> Tensor:
    """Combine branch velocities (B, n, C) and renormalise; `without_image` is None when image guidance is off."""
    guided = without_text + settings.cfg_text_scale * (plain - without_text)
    if settings.cfg_renorm_type == "text_channel":
        guided = _limit_norm(guided, plain, (-1,), settings.cfg_renorm_min)
    if without_image is not None:
        guided = without_image + settings.cfg_img_scale * (guided - without_image)
    if settings.cfg_renorm_type == "global":
        return _limit_norm(guided, plain, (-2, -1), settings.cfg_renorm_min)
    if settings.cfg_renorm_type == "channel":
        return _limit_norm(guided, plain, (-1,), settings.cfg_renorm_min)
    return guided


def _limit_norm(guided: Tensor, plain: Tensor, dims: tuple[int, ...], smallest: float) -> Tensor:
    """Scale guided velocities down to the norm of the plain ones over `dims`, never up."""
    # (B, 1, 1) over the image, (B, n, 1) per token
    ratio = plain.norm(dim=dims, keepdim=True) / (guided.norm(dim=dims, keepdim=True) + 1e-8)
    return guided * ratio.clamp(smallest, 1.0)


@torch.no_grad()
def sample_latents(
    model: Bagel,
    branches: Branches,
    grid: tuple[int, int],
    init_noise: Tensor,
    settings: SamplerSettings,
    trace: list[dict] | None = None,
) -> Tensor:
    """Return latent tokens, float32 (B, h * w, latent_dim), after all steps.

    Args:
        grid: (h, w) in latent tokens.
        init_noise: (B, h * w, latent_dim), the state at t = 1.
        trace: if given, one dict per step is appended: t, x_t, velocity, branches (name -> velocity).
    """
    ids = contexts.grid_position_ids(*grid, model.config.max_latent_size, model.device)
    x = init_noise.to(model.device, torch.float32)  # (B, h * w, latent_dim)
    timesteps, sizes = flow.sampling_schedule(settings.num_timesteps, settings.timestep_shift)
    active = [_active_branches(float(t), settings) for t in timesteps]
    read = {
        name: contexts.make_branch(model, getattr(branches, name), len(x), len(ids))
        for name in sorted({name for names in active for name in names})
    }
    # On the device once, not in each step.
    for names, t, dt in zip(active, timesteps.to(x.device), sizes.to(x.device), strict=True):
        found = contexts.velocities(model, [read[name] for name in names], x, t, ids)
        velocities = dict(zip(names, found, strict=True))
        guided = velocities["gen"]
        if "cfg_text" in velocities:
            guided = guide(guided, velocities["cfg_text"], velocities.get("cfg_img"), settings)
        if trace is not None:
            trace.append({"t": float(t), "x_t": x, "velocity": guided, "branches": velocities})
        x = x - guided * dt  # Euler step; dt > 0 goes from noise (t = 1) to the image (t = 0)
    return x


def _active_branches(t: float, settings: SamplerSettings) -> list[str]:
    low, high = settings.cfg_interval
    if settings.cfg_text_scale <= 1 or not low < t <= high:
        return ["gen"]
    return ["gen", "cfg_text", "cfg_img"] if settings.cfg_img_scale > 1 else ["gen", "cfg_text"]


@torch.no_grad()
def read_inputs(
    model: Bagel, inputs: Sequence, posterior_noise: Sequence[Tensor] | None = None
) -> tuple[Branches, tuple[int, int] | None]:
    """Read images and texts in order into the three branches.

    Args:
        inputs: a text is a `str` or a list of token ids; anything else is an image reference.
        posterior_noise: noise of the VAE posterior, one (1, z, h, w) per image; None uses the posterior's
            mean. (The reference draws a sample even at inference.)

    Returns:
        The branches, and the pixel size (height, width) of the last image, or None without images.
    """
    gen = cfg_text = cfg_img = contexts.new_context(model)
    size, noises = None, iter(posterior_noise or ())
    for item in inputs:
        if contexts.is_text(item):
            ids = model.encode_text(item)
            # Without-text keeps all before the last text; without-image has read the texts only.
            cfg_text = gen
            gen, cfg_img = contexts.add_text(model, gen, ids), contexts.add_text(model, cfg_img, ids)
        else:
            gen, size = _read_image(model, gen, item, next(noises, None))
            cfg_text = gen
    return Branches(gen, cfg_text, cfg_img), size


def _read_image(model: Bagel, context: Context, item, noise: Tensor | None) -> tuple[Context, tuple[int, int]]:
    transforms = model.config.transforms
    image = resize(load(item), transforms["vae"])
    pixels = transform(image, transforms["vae"]).unsqueeze(0).to(model.device)
    context = contexts.add_vae_image(model, context, model.require_vae().encode(pixels, noise))
    if model.config.vision is not None:
        # The ViT sees the image that was already resized for the VAE, unlike in training (as upstream).
        context = contexts.add_vit_image(model, context, transform(image, transforms["vit"]).unsqueeze(0))
    return context, (image.height, image.width)


@torch.no_grad()
def generate_image(
    model: Bagel,
    inputs: Sequence,
    *,
    settings: SamplerSettings | None = None,
    image_size: tuple[int, int] | None = None,
    num_images: int = 1,
    generator: torch.Generator | None = None,
    posterior_noise: Sequence[Tensor] | None = None,
) -> list[Image.Image]:
    """Generate images from interleaved images and texts (one edit: [image, instruction]).

    Args:
        image_size: (height, width) in pixels; by default the size of the last input image after its resize.
        num_images: candidates, which share one reading of the inputs.
        generator: CPU generator of the initial noise.

    Raises:
        ValueError: there is neither an input image nor an image size, or the size does not fit.
    """
    branches, size = read_inputs(model, inputs, posterior_noise)
    size = image_size or size
    if size is None:
        raise ValueError("text alone does not say how large the image should be; pass image_size=(height, width)")
    step = model.config.latent_downsample
    if size[0] % step or size[1] % step:
        raise ValueError(f"image_size {size} is no multiple of {step} pixels")
    grid = (size[0] // step, size[1] // step)
    noise = torch.randn(num_images, grid[0] * grid[1], model.config.latent_dim, generator=generator)
    latents = sample_latents(model, branches, grid, noise, settings or SamplerSettings())
    return decode_images(model, unpatchify(latents, grid, model.config.latent_patch_size))


@torch.no_grad()
def decode_images(model: Bagel, latents: Tensor) -> list[Image.Image | None]:
    """Decode latents (B, z, h, w) to PIL images; values are truncated, not rounded, as in the reference.

    None stands for one whose latents or pixels are NaN or infinite: as bytes they would be a black image.
    """
    decoded = model.require_vae().decode(latents).float()  # (B, 3, H, W)
    whole = latents.isfinite().flatten(1).all(1) & decoded.isfinite().flatten(1).all(1)
    pixels = ((decoded * 0.5 + 0.5).clamp(0, 1) * 255).permute(0, 2, 3, 1).to(torch.uint8).cpu().numpy()
    return [Image.fromarray(image) if good else None for image, good in zip(pixels, whole.tolist(), strict=True)]
