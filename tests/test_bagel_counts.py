"""What a step and an edit of BAGEL cost whatever the machine: passes, waits for the device, shapes of attention."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from kernel_counts import Kernels, bagel_7b
from performance_bars import check_bar
from test_bagel_model import picture, small_model
from torch.utils._python_dispatch import TorchDispatchMode
from toy_bagel import batch_of, encode, mixture

from visdyn.models.bagel import SamplerSettings, layers, rows
from visdyn.models.bagel import context as contexts
from visdyn.models.bagel.decoder import KeysValues
from visdyn.models.bagel.sampler import Branches, sample_latents
from visdyn.training.bagel.mixture import DROPOUT, KINDS, BagelMixture, collate
from visdyn.training.bagel.objective import BagelObjective
from visdyn.trajectory import Trajectory

READS = {"_local_scalar_dense", "nonzero", "bincount", "masked_select", "is_nonzero", "equal", "_unique2"}


class HostReads(TorchDispatchMode):
    """Lists the operators that make the host of a GPU wait for a value or a size."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func._schema.name.split("::")[1]
        by_mask = name.startswith(("index", "_index_put")) and any(
            isinstance(part, torch.Tensor) and part.dtype == torch.bool
            for part in (args[1] if len(args) > 1 and isinstance(args[1], list | tuple) else ())
        )
        if name in READS or by_mask or (name == "repeat_interleave" and "Tensor" in str(func)):
            self.found.append(name)
        return func(*args, **(kwargs or {}))


def test_the_counter_sees_what_waits():
    values = torch.arange(4)
    with HostReads() as reads:
        values[values > 1].sum().item()
        torch.repeat_interleave(values, values)
    assert len(reads.found) >= 3


@pytest.mark.parametrize("padding", [0.0, 1e9])
@pytest.mark.parametrize("weights", [{"edit": 1.0}, dict.fromkeys(KINDS, 1.0)])
def test_a_training_forward_never_waits_for_the_device(weights, padding, monkeypatch):
    monkeypatch.setattr(rows, "MOST_PADDING", padding)
    objective, batch = BagelObjective(small_model()), batch_of(mixture(weights, 6))
    with HostReads() as reads:
        objective(batch)
    assert reads.found == []
    check_bar("waits for the device in a training forward of BAGEL", len(reads.found))


def edit_batches(model, count: int) -> list:
    """One edit each, its latents known, with prompts of 20 to 39 tokens and upstream's dropout."""
    images = [np.asarray(picture(24, 16, i)) for i in (0, 1)]
    prompts = [" ".join(["it"] * (20 + 7 * i % 20)) for i in range(count)]
    records = [Trajectory(images[0], prompt, images[1], "x", str(i)) for i, prompt in enumerate(prompts)]
    data = BagelMixture({"edit": records}, {"edit": 1.0}, encode, model.config, count, dropout=DROPOUT)
    batches = [collate([data[i]], data.config, DROPOUT, whole=False)["batch"] for i in range(count)]
    return [
        replace(batch, latents=model.vae.encode(batch.pack.images, batch.posterior), posterior=None)
        for batch in batches
    ]


def test_attention_meets_few_shapes_where_each_costs_a_plan(monkeypatch):
    shapes, attend = set(), F.scaled_dot_product_attention

    def watched(query, key, value, **options):
        shapes.add((query.shape, key.shape))
        return attend(query, key, value, **options)

    objective = BagelObjective(model := small_model())
    batches = edit_batches(model, 16)
    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    with torch.no_grad():
        exact = [objective(batch)["loss"] for batch in batches]
        assert len(shapes) > 12
        shapes.clear()
        monkeypatch.setattr(rows, "PLANNING_DEVICES", ("cpu",))
        rounded = [objective(batch)["loss"] for batch in batches]
    check_bar("attention shapes in 16 training steps of BAGEL", len(shapes))
    torch.testing.assert_close(torch.stack(rounded), torch.stack(exact), atol=1e-6, rtol=1e-6)


def test_lengths_are_rounded_up_by_an_eighth_at_most_and_never_on_a_cpu():
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    for length in range(1, 9000, 7):
        slots = rows.round_length(length, cuda)
        assert length <= slots < length + max(64, length / 8)
        assert rows.round_length(length, cpu) == length
    assert len({rows.round_length(length, cuda) for length in range(4096, 8192)}) == 9


@torch.no_grad()
def read_branches(model) -> Branches:
    empty = contexts.new_context(model)
    source = contexts.add_vae_image(model, empty, torch.randn(1, 4, 4, 4))
    return Branches(contexts.add_text(model, source, [5, 6]), source, contexts.add_text(model, empty, [5, 6]))


def test_an_edit_of_49_evaluations_is_49_passes():
    model, passes = small_model(), []
    model.language_model.model.register_forward_pre_hook(lambda _, arguments: passes.append(len(arguments[0].gen)))
    branches = read_branches(model)
    passes.clear()
    sample_latents(model, branches, (2, 2), torch.randn(1, 4, 16), SamplerSettings())
    assert len(passes) == 49
    check_bar("passes of an edit", len(passes))
    assert sum(passes) == 131  # branches evaluated: 41 guided steps of three, 8 of one
    assert set(passes) == {1, 3}


def test_branches_together_equal_branches_alone():
    model = small_model()
    branches, x, t = read_branches(model), torch.randn(3, 4, 16), torch.tensor(0.6)
    ids = contexts.grid_position_ids(2, 2, model.config.max_latent_size)
    parts = (branches.gen, branches.cfg_text, branches.cfg_img, contexts.new_context(model))
    with torch.no_grad():
        made = [contexts.make_branch(model, part, 3, 4) for part in parts]
        for _ in range(2):  # what an evaluation writes into the room does not reach the next
            together = contexts.velocities(model, made, x, t, ids)
            for part, velocity in zip(parts, together, strict=True):
                alone = contexts.velocity(model, part, x, t, ids)
                torch.testing.assert_close(velocity, alone, atol=1e-6, rtol=1e-5)


def test_an_evaluation_attends_with_as_many_key_heads_as_there_are(monkeypatch):
    """Widened to the query heads, keys and values of BAGEL would take seven times the memory in each layer."""
    model, heads, attend = small_model(), set(), F.scaled_dot_product_attention
    branches = read_branches(model)

    def watched(query, key, value, **options):
        heads.add((query.shape[1], key.shape[1], value.shape[1]))
        return attend(query, key, value, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    sample_latents(model, branches, (2, 2), torch.randn(1, 4, 16), SamplerSettings(num_timesteps=3))
    assert heads == {(4, 2, 2)}


def _guided_pass() -> Kernels:
    """Count a pass of all three branches at 912 x 512: 1,824 latents after a source, its ViT tokens and a text."""
    model = bagel_7b()
    text, latents, vit, words = model.config.text, 32 * 57, 37 * 65, 42

    def branch(length: int) -> contexts.Branch:
        shape = 1, text.num_key_value_heads, length, text.head_dim
        read = [KeysValues(*torch.empty(2, *shape, device="meta", dtype=torch.bfloat16))] * text.num_hidden_layers
        context = contexts.Context(tuple(read), torch.zeros(1, dtype=torch.int64, device="meta"))
        return contexts.make_branch(model, context, 1, latents)

    source = latents + 2 + vit + 2
    branches = [branch(source + words), branch(source), branch(words)]
    x = torch.empty(1, latents, model.config.latent_dim, device="meta")
    ids = torch.empty(latents, dtype=torch.int64, device="meta")
    with torch.no_grad(), Kernels() as kernels:
        contexts.velocities(model, branches, x, torch.empty((), device="meta"), ids)
    return kernels


def test_a_pass_launches_few_kernels_and_copies_nothing_from_the_host(monkeypatch):
    monkeypatch.setattr(F, "scaled_dot_product_attention", lambda query, keys, values, **_: query.clone())  # one kernel
    steps = _guided_pass().count
    monkeypatch.setattr(layers, "FUSING_DEVICES", ("meta",))
    monkeypatch.setattr(F, "rms_norm", lambda x, *_: x.clone())  # one kernel on CUDA
    fused = _guided_pass()
    assert steps - fused.count == 7 * (8 * 28 + 2)  # eight norms a layer, two behind them
    check_bar("kernels of a guided pass", fused.count)
    check_bar("copies between host and device in a guided pass", fused.copies)


def test_the_counter_sees_a_copy_from_the_host():
    with Kernels() as kernels:
        torch.ones(3).to("meta")
    assert kernels.copies == 1


@torch.no_grad()
def test_a_norm_in_one_kernel_is_the_norm_in_steps(monkeypatch):
    model = small_model()
    branches, x, ids = (
        read_branches(model),
        torch.randn(1, 4, 16),
        contexts.grid_position_ids(2, 2, model.config.max_latent_size),
    )
    names = ("gen", "cfg_text", "cfg_img")
    found = []
    for devices in ((), ("cpu",)):
        monkeypatch.setattr(layers, "FUSING_DEVICES", devices)
        made = [contexts.make_branch(model, getattr(branches, name), 1, 4) for name in names]
        found.append(torch.stack(contexts.velocities(model, made, x, torch.tensor(0.6), ids)))
    assert found[0].abs().max() > 0.1
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-6)


def test_training_takes_a_norm_in_steps_everywhere(monkeypatch):
    monkeypatch.setattr(layers, "FUSING_DEVICES", ("cpu",))
    monkeypatch.setattr(F, "rms_norm", None)  # would fail
    norm = layers.RMSNorm(8, 1e-6)
    norm(torch.randn(2, 8, requires_grad=True)).sum().backward()
    assert norm.weight.grad is not None
