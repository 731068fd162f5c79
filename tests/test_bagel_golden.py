"""BAGEL against tensors computed with the public reference implementation (tiny random weights, float32).

One test asserts that no golden tensor is left out.
"""

from __future__ import annotations

import pytest
import torch
from plain_losses import flow_loss, text_loss, total_loss
from test_bagel_recompute import (
    INFER,
    PACKS,
    TRAIN,
    UNDERSTAND,
    assert_equal_to_golden,
    fixed_outputs,
    golden_model,
    golden_sample,
    infer_outputs,
    needs_golden,
    pack_outputs,
    read_json,
    read_tensors,
    train_forward,
    train_outputs,
    understand_outputs,
    vae_outputs,
    vit_outputs,
)

from visdyn.models.bagel import SamplerSettings, sampler, transforms
from visdyn.models.bagel import rectified_flow as flow
from visdyn.models.bagel.config import TransformConfig

pytestmark = needs_golden


@pytest.mark.parametrize("case", PACKS)
def test_packing_and_mask_are_exact(case):
    assert_equal_to_golden(pack_outputs(case))


@pytest.mark.parametrize("name", ["edit_ab", "edit_ba", "vlm_1", "t2i_1", "multi_1"])
def test_sample_plans(name):
    kinds = {"text": "text", "vae": "vae_image", "vit": "vit_image"}
    plan = [(kinds[p.kind], int(p.loss), int(p.droppable)) for p in golden_sample(name)]
    golden = read_json("inputs")["samples"][name]["sequence_plan"]
    assert plan == [(part["type"], part["loss"], part["enable_cfg"]) for part in golden]


@pytest.mark.parametrize("case", TRAIN)
def test_training_forward_and_stored_gradients(case):
    assert_equal_to_golden(train_outputs(case))


@pytest.mark.parametrize("case", TRAIN)
def test_losses_and_gradient_norms(case):
    model, golden = golden_model(), read_json("outputs")
    _, output = train_forward(model, case)
    for name, value in (
        ("mse", flow_loss(output)),
        ("ce", text_loss(output)),
        ("ce_reweighted", text_loss(output, reweight=True)),
        ("total", total_loss(output)),
    ):
        expected = golden.get(f"train.{case}.loss_{name}")
        assert (value is None) == (expected is None)
        assert value is None or value.item() == pytest.approx(expected, rel=1e-5)
    model.zero_grad(set_to_none=True)
    total_loss(output).backward()
    parameters = dict(model.named_parameters())
    norms = read_json("grad_norms")[case]
    assert set(norms) == set(parameters)
    for name, expected in norms.items():
        grad = parameters[name].grad
        norm = 0.0 if grad is None else grad.double().norm().item()
        # The k_proj bias of the ViT has no gradient in exact arithmetic, hence the absolute allowance.
        assert norm == pytest.approx(expected or 0.0, rel=1e-4, abs=2e-5), name


def test_vae():
    with torch.no_grad():
        assert_equal_to_golden(vae_outputs())


def test_vit():
    with torch.no_grad():
        assert_equal_to_golden(vit_outputs())


@pytest.mark.parametrize("case", INFER)
def test_cached_inference(case):
    assert_equal_to_golden(infer_outputs(case))


@pytest.mark.parametrize("case", UNDERSTAND)
def test_greedy_text(case):
    assert_equal_to_golden(understand_outputs(case))


def test_fixed_tables_and_schedules():
    with torch.no_grad():
        assert_equal_to_golden(fixed_outputs())


def test_image_sizes():
    golden, spec = read_json("outputs")["fixed.transform_output_sizes_wh"], read_json("inputs")["fixed"]
    for name, values in spec["transform_settings"].items():
        for suffix, images in (("", 1), ("_img_num2", 2)):
            sizes = [
                transforms.resized_size(*s, TransformConfig(*values), images) for s in spec["transform_input_sizes_wh"]
            ]
            assert [list(size) for size in sizes] == golden[name + suffix], (name, images)


def test_number_of_evaluations():
    golden = read_json("outputs")
    for case in INFER:
        spec = read_json("inputs")["infer"][case]["settings"]
        settings = SamplerSettings(**{k: tuple(v) if isinstance(v, list) else v for k, v in spec.items()})
        timesteps, _ = flow.sampling_schedule(settings.num_timesteps, settings.timestep_shift)
        counts = [len(sampler._active_branches(float(t), settings)) for t in timesteps]
        expected = golden[f"infer.{case}.num_model_evaluations"]
        assert counts == ([1] * 5 if case == "edit_img_only" else expected)


def test_no_golden_tensor_is_left_out():
    names: set[str] = set()
    with torch.no_grad():
        names |= set(vae_outputs()) | set(vit_outputs()) | set(fixed_outputs())
    for cases, recompute in ((PACKS, pack_outputs), (INFER, infer_outputs), (UNDERSTAND, understand_outputs)):
        for case in cases:
            names |= set(recompute(case))
    for case in TRAIN:
        names |= set(train_outputs(case))
    assert names == set(read_tensors("outputs"))
