"""Editing with BAGEL: a cached context against one read again at each step, and a batch of 8 against 8 single edits.

`python benchmarks/bagel_editing.py`: about a minute on one core. The small model has every part of the public one (two
experts, ViT, autoencoder with two levels, three guidance branches, guidance in (.4, 1]) and random weights. The loop
without a cache is a generous one: the branches share what they can, and the source is encoded once for all steps.
Batching pays where an image has few tokens (`--size tiny`, the embedded default's 16): 256 fill a core by themselves.

`--device cuda --size 7b` is the shape of BAGEL-7B-MoT in bfloat16 (a GPU of 80 GB): seconds and memory of an edit at
912 x 512 with 50 timesteps (49 evaluations), batch 1 and 8, then tokens/s and memory of a LoRA training step.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

import numpy as np
import torch
from random_models import built, peak, seconds, title

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
)
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel.embeddings import patchify, unpatchify
from visdyn.models.bagel.sampler import Branches, guide, sample_latents
from visdyn.models.bagel.transforms import transform
from visdyn.models.editors.bagel_editor import BagelEditor
from visdyn.training.bagel.mixture import BagelMixture, collate
from visdyn.training.bagel.objective import BagelObjective
from visdyn.training.bagel.recipe import apply_adapter
from visdyn.training.engine.sharding import widen_trained
from visdyn.trajectory import Trajectory

BATCH = 8
COMPARED = 13  # timesteps of the comparison with a context that is read again
TEXT = list(range(5, 45))  # an expanded prompt has about so many tokens
SMALL = BagelConfig(
    text=TextConfig(512, 256, 768, 4, 4, 2),
    vision=VisionConfig(64, 128, 2, 4, image_size=16 * 14),
    autoencoder=AutoencoderConfig(ch=32, ch_mult=(1, 2), num_res_blocks=1),
    latent_patch_size=4,
    max_latent_size=16,
    vit_max_num_patch_per_side=16,
    special_tokens=SpecialTokens(1, 2, 3, 4),
    transforms={name: TransformConfig(128, 128, stride) for name, stride in (("vae", 8), ("vit", 14))},
)
# The embedded default's shape: 16 latent tokens of 16 x 16 pixels.
TINY = replace(
    SMALL,
    text=TextConfig(512, 128, 256, 4, 4, 4),
    latent_patch_size=8,
    transforms={name: TransformConfig(64, 64, stride) for name, stride in (("vae", 16), ("vit", 14))},
)


@dataclass(frozen=True)
class Case:
    """A model's shape, its sources (height, width), the timesteps of an edit, and how many edits go one by one."""

    config: BagelConfig
    source: tuple[int, int]
    timesteps: int
    dtype: torch.dtype
    singly: int = BATCH


CASES = {
    "tiny": Case(TINY, (64, 64), COMPARED, torch.float32),
    "small": Case(SMALL, (128, 128), COMPARED, torch.float32),
    "7b": Case(BagelConfig(), (256, 456), 50, torch.bfloat16, singly=1),
}


def random_bagel(case: Case, device: str) -> Bagel:
    """Build a model with random weights on a device; its autoencoder is float32."""
    torch.manual_seed(0)
    model = built(lambda: Bagel(case.config), case.dtype, device)
    torch.nn.init.normal_(model.llm2vae.weight, std=0.02)  # a new model answers velocity 0, whatever it reads
    model.vae = Autoencoder(case.config.autoencoder).to(device).requires_grad_(False).eval()
    return model


def sources(case: Case, count: int) -> list[np.ndarray]:
    """Return random images uint8 (H, W, 3)."""
    shape = count, *case.source, 3
    return list(np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8))


def inputs_of(model: Bagel, image: np.ndarray) -> dict:
    """Return what one edit reads: latents, views for the ViT, token ids; and the noise it starts from."""
    transforms = model.config.transforms
    pixels = transform(image, transforms["vae"])[None].to(model.device)
    latents = model.require_vae().encode(pixels)
    noise = torch.randn(latents.shape, generator=torch.Generator().manual_seed(0)).to(model.device)
    views = transform(image, transforms["vit"])[None].to(model.device)
    ids = torch.tensor([TEXT], device=model.device)
    return {"source_latents": latents, "text_ids": ids, "noise": noise, "source_pixels": views}


@torch.no_grad()
def read_edit(model: Bagel, source_latents, text_ids, source_pixels) -> Branches:
    """Read a source and an instruction into the three guidance branches."""
    empty = contexts.new_context(model)
    image = contexts.add_vit_image(model, contexts.add_vae_image(model, empty, source_latents), source_pixels)
    return Branches(contexts.add_text(model, image, text_ids), image, contexts.add_text(model, empty, text_ids))


@torch.no_grad()
def edit(model: Bagel, noise: torch.Tensor, settings: SamplerSettings, **read) -> torch.Tensor:
    """Return the latents (1, z, h, w) of an edit whose source and prompt are read once."""
    patch = model.config.latent_patch_size
    grid, _ = contexts.latent_grid(model, noise)
    return unpatchify(
        sample_latents(model, read_edit(model, **read), grid, patchify(noise, patch), settings), grid, patch
    )


@torch.no_grad()
def edit_without_cache(model: Bagel, noise: torch.Tensor, settings: SamplerSettings, **read) -> torch.Tensor:
    """Return the latents (1, z, h, w) of `edit`, reading source and prompt again for each evaluation."""
    patch = model.config.latent_patch_size
    grid, ids = contexts.latent_grid(model, noise)
    x = patchify(noise, patch)
    low, high = settings.cfg_interval
    for t, dt in zip(*flow.sampling_schedule(settings.num_timesteps, settings.timestep_shift), strict=True):
        branches = read_edit(model, **read)
        velocity = contexts.velocity(model, branches.gen, x, t, ids)
        if low < float(t) <= high:
            others = [contexts.velocity(model, part, x, t, ids) for part in (branches.cfg_text, branches.cfg_img)]
            velocity = guide(velocity, *others, settings)
        x = x - velocity * dt.to(x.device)
    return unpatchify(x, grid, patch)


def compare_cache(model: Bagel, case: Case, device: str) -> None:
    """Print seconds of one edit's sampling with and without cached contexts, and how far the results differ."""
    inputs, settings = inputs_of(model, sources(case, 1)[0]), SamplerSettings(num_timesteps=COMPARED)
    cached, result = seconds(lambda: edit(model, settings=settings, **inputs), device)
    plain, again = seconds(lambda: edit_without_cache(model, settings=settings, **inputs), device)
    difference = float((result - again).norm() / again.norm())
    # In bfloat16 rounding grows over the evaluations: there the difference is only told.
    check(difference <= 1e-4 or case.dtype != torch.float32, f"cached and plain latents differ by {difference:.1g}")
    tokens = result.shape[-1] * result.shape[-2] // model.config.latent_patch_size**2
    print(
        f"one edit, {tokens} latent tokens, {COMPARED - 1} evaluations: {plain:6.2f} s reading the context each "
        f"step -> {cached:6.2f} s cached{peak(device)} ({plain / cached:.2f} times faster)   "
        f"latents differ by {difference:.0e} of their norm"
    )


def compare_batch(model: Bagel, case: Case, device: str) -> None:
    """Print seconds of an edit, image to image, alone and as one of a batch."""
    editor = BagelEditor(model, BATCH, SamplerSettings(num_timesteps=case.timesteps))
    images, seeds = sources(case, BATCH), list(range(BATCH))
    prompts = [TEXT[: len(TEXT) - 2 * index] for index in seeds]  # of different lengths
    singly, alone = seconds(
        lambda: [editor.edit([images[i]], [prompts[i]], [i])[0] for i in seeds[: case.singly]],
        device,
    )
    one_peak = peak(device)
    together, batch = seconds(lambda: editor.edit(images, prompts, seeds), device)
    levels = max(int(np.abs(one.astype(int) - other).max()) for one, other in zip(alone, batch, strict=False))
    check(case.dtype != torch.float32 or levels <= 1, f"a batched image is {levels} grey levels from the single one")
    size = "{1} x {0}".format(*batch[0].shape[:2])
    one, each = singly / case.singly, together / BATCH
    print(
        f"an edit of {size}: {one:6.2f} s alone{one_peak} -> {each:6.2f} s as one of {BATCH}{peak(device)} "
        f"({one / each:.2f} times faster)   images differ by at most {levels} grey level(s)"
    )


def train_step(model: Bagel, case: Case, device: str, steps: int = 4) -> None:
    """Print seconds, tokens/s and memory of LoRA training steps, one edit each, the first left out."""
    model.requires_grad_(True)
    adapted = apply_adapter(model, "lora")
    widen_trained(model)
    objective = BagelObjective(model.train())
    objective.activation_checkpointing_enable()
    trained = [tensor for tensor in adapted.parameters() if tensor.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4)
    images = sources(case, 2)
    records = {"edit": [Trajectory(images[0], "open it", images[1], "random", "0")]}
    data = BagelMixture(records, {"edit": 1.0}, lambda _: TEXT, model.config, steps + 1)

    def step(index: int) -> int:
        batch = collate([data[index]], model.config, whole=False)["batch"]
        with torch.autocast(device, torch.bfloat16, enabled=case.dtype == torch.bfloat16):
            objective(batch)["loss"].backward()
        optimiser.step()
        optimiser.zero_grad()
        return len(batch.pack)

    peak(device)
    step(0)
    spent, tokens = seconds(lambda: sum(step(index) for index in range(1, steps + 1)), device)
    print(
        f"LoRA step, one edit of {tokens // steps} tokens: {spent / steps:6.2f} s, {tokens / spent:7.0f} tokens/s"
        f"{peak(device)}   {sum(tensor.numel() for tensor in trained) / 1e6:.1f} M parameters train"
    )


def check(holds: bool, otherwise: str) -> None:
    """End the benchmark where two ways that must agree do not: their times would say nothing."""
    if not holds:
        raise SystemExit(otherwise)


def main() -> None:
    """Run the comparisons; the options change their size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(CASES), default="small", help="7b is BAGEL-7B-MoT's shape, in bf16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; 7b needs a GPU of 80 GB")
    options = parser.parse_args()
    torch.set_num_threads(1)
    case = CASES[options.size]
    model = random_bagel(case, options.device)
    edit(model, settings=SamplerSettings(num_timesteps=2), **inputs_of(model, sources(case, 1)[0]))
    print(title("edits with BAGEL", options))
    compare_cache(model, case, options.device)
    compare_batch(model, case, options.device)
    train_step(model, case, options.device)


if __name__ == "__main__":
    main()
