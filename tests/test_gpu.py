"""What only a GPU can show: the same codes, images and scores as on a CPU, and training in bfloat16 and by DeepSpeed.

Everything else runs on a CPU, and most of it on a GPU too, where this suite finds one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import WORDS
from test_bagel_editor import FAST, close
from test_bagel_model import picture, small_model
from test_bagel_training import train
from test_bagel_training import world as bagel_world  # noqa: F401
from test_chunked_cross_entropy import _case, _gradients, _plain
from test_diffusion_editors import _load, _small_areas, folders  # noqa: F401
from tiny_pipelines import PIPELINES
from tiny_tokens import save_trained_families
from toy_bagel import batch_of, gradients, mixture, words
from toy_dynamics import job_arguments, lora_of

from visdyn.models import load_model
from visdyn.models.dynamics_pair import load_dynamics
from visdyn.models.editors.bagel_editor import BagelEditor
from visdyn.models.encoders import ImageEncoder
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.image_decoder import sample_images, sample_images_from_draft
from visdyn.models.token.scoring import score_completions
from visdyn.models.token.shared_prefix import score_shared
from visdyn.models.vqgan import VQGAN, VQGANConfig
from visdyn.params.doundo import Consistency
from visdyn.training.bagel.mixture import KINDS
from visdyn.training.bagel.objective import BagelObjective
from visdyn.training.dynamics import train_dynamics
from visdyn.training.engine.launch import Hardware, Job, run_jobs
from visdyn.training.losses import weighted_cross_entropy
from visdyn.training.tiny.encoder_recipe import tiny_dino

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]
ACTIONS = ["open", "close the red cup", "take lamp", "put the cup"]
RECIPE = {"steps": 20, "batch_size": 4, "learning_rate": 1e-2, "log_every": 5, "save_every": 10, "precision": "bf16"}


@pytest.fixture(scope="module")
def world(tiny_folder, tmp_path_factory):
    """Folders of a Chameleon and a Liquid, and a triplet file of each."""
    return save_trained_families(tmp_path_factory.mktemp("gpu"), tiny_folder, WORDS)


@pytest.fixture(scope="module")
def both(tiny_folder):
    """The tiny model on the CPU and on the GPU."""
    return load_model(tiny_folder), load_model(tiny_folder, device="cuda")


@pytest.fixture
def _tf32():
    """Allow products of float32 numbers to be rounded to TF32, as torch does by default for convolutions."""
    backends = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [backend.allow_tf32 for backend in backends]
    for backend in backends:
        backend.allow_tf32 = True
    yield
    for backend, value in zip(backends, before, strict=True):
        backend.allow_tf32 = value


@pytest.mark.usefixtures("_tf32")
def test_codes_are_those_of_a_cpu_although_products_may_be_rounded_to_tf32():
    """The public tokenizer's shape. Codes lie close to each other here: a few at the edge may flip by rounding."""
    torch.manual_seed(0)
    model = VQGAN(VQGANConfig(resolution=256)).eval()
    pixels = torch.rand(2, 3, 256, 256) * 2 - 1
    features = model.features(pixels).permute(0, 2, 3, 1).reshape(-1, model.config.embed_dim)
    near = features[torch.arange(model.config.n_embed) % len(features)]
    model.quantize.embedding.weight.data = near + 0.05 * features.std() * torch.randn_like(near)
    expected = model.encode(pixels), model.decode(model.encode(pixels))
    model.to("cuda")
    assert (model.encode(pixels).cpu() == expected[0]).float().mean() >= 0.99
    rounded = model.quantize(model.quant_conv(model.encoder(pixels.cuda())))
    assert (rounded.cpu() == expected[0]).float().mean() < 0.99  # else this test could not see TF32
    torch.testing.assert_close(model.decode(expected[0]).cpu(), expected[1], atol=1e-3, rtol=1e-3)


def test_samples_are_those_of_a_cpu(both, grids):
    """One uniform number for each token decides; K = 3, from the prompt alone and from the source as a draft."""
    prompts = [both[0].builder.forward_prompt(grids[row], action) for row, action in enumerate(ACTIONS)]
    draws = uniforms(len(ACTIONS) * 3, 16, torch.Generator().manual_seed(0)).reshape(len(ACTIONS), 3, 16)
    sources = grids[: len(ACTIONS)].reshape(len(ACTIONS), -1)
    plain = [sample_images(model.lm, model.layout, prompts, draws) for model in both]
    drafted = [sample_images_from_draft(model.lm, model.layout, prompts, sources, draws).codes for model in both]
    assert (plain[0] == plain[1]).mean() > 0.95  # a draw at the edge of a step may fall on its other side
    assert (drafted[0] == drafted[1]).mean() > 0.95


def test_scores_are_those_of_a_cpu(both, grids):
    rows = [both[0].builder.forward(grids[0], action, grids[1 + row]) for row, action in enumerate(ACTIONS)]
    scored = slice(1, -2)
    expected = score_completions(both[0].lm, rows, scored, both[0].layout.pad, 2).mean
    for way in (score_completions, score_shared):
        found = way(both[1].lm, rows, scored, both[1].layout.pad, 2).mean
        torch.testing.assert_close(found.cpu(), expected, atol=1e-4, rtol=0)


def test_the_chunked_loss_has_the_plain_ones_value_and_gradients():
    case = [tensor.cuda() for tensor in _case()]
    expected = _gradients(_plain, *case)
    for one, other in zip(_gradients(lambda *a: weighted_cross_entropy(*a, 5), *case), expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    with torch.autocast("cuda", torch.bfloat16):
        narrow = _gradients(lambda *a: weighted_cross_entropy(*a, 5), *case)
    torch.testing.assert_close(narrow[0], expected[0], atol=0.05, rtol=0.02)


@pytest.mark.parametrize("family", ["chameleon", "liquid"])
def test_adapters_train_in_bfloat16_and_verify_on_one_base(world, tmp_path, family):
    base, triplets = world[family]
    hardware = {"activation_checkpointing": True, "gradient_accumulation_steps": 2, "dataloader_num_workers": 2}
    for task in ("fdm", "idm"):
        places = {"output": str(tmp_path / task), "scratch": str(tmp_path / "scratch"), "hardware": hardware}
        changes = {"data": {"task": task}, "lora": lora_of(rank=4, alpha=8), "training": RECIPE}
        train_dynamics(**job_arguments(base, triplets, tmp_path, **changes, **places))
        losses = pd.read_csv(tmp_path / task / "training.csv")["loss"]
        assert losses.iloc[-1] < losses.iloc[0] - 0.05
    forward, inverse = load_dynamics(tmp_path / "fdm", tmp_path / "idm", "cuda")
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    candidates = forward.sample(image, "open", 4, torch.Generator().manual_seed(0))
    assert torch.isfinite(inverse.log_likelihood([image] * 4, candidates, ["open"] * 4)).all()


def test_deepspeed_trains_as_the_plain_trainer_does(world, tmp_path):
    """One rank of ZeRO-2 and ZeRO-3 by DeepSpeed's launcher, in float32; their optimiser adds in another order."""
    base, triplets = world["chameleon"]
    training = {**RECIPE, "precision": "fp32", "learning_rate": 1e-3}
    arguments = job_arguments(base, triplets, tmp_path, data={"weighting": "recognition"}, training=training)
    del arguments["scratch"]
    expected = None
    for name in ("plain", "zero2", "zero3"):
        trainer = {} if name == "plain" else {"deepspeed": f"hardware/deepspeed/{name}.json"}
        launcher = "python" if name == "plain" else "deepspeed"
        options = [] if name == "plain" else ["--num_gpus", "1"]
        hardware = Hardware(1, 1, launcher, options, trainer)
        job = Job(name, "visdyn.training.dynamics:train_dynamics", {**arguments, "output": str(tmp_path / name)})
        run_jobs([job], tmp_path / "scratch", hardware)
        losses = pd.read_csv(tmp_path / name / "training.csv")["loss"]
        expected = losses if expected is None else expected
        np.testing.assert_allclose(losses, expected, rtol=1e-3)


def test_a_bagel_edits_as_on_a_cpu():
    sources, prompts = [picture(24, 16, i) for i in range(3)], ["open it", "close it it it", "close"]
    images = []
    for device in ("cpu", "cuda"):
        model = small_model().to(device)
        model.tokenizer = words()
        images.append(BagelEditor(model, settings=FAST).edit(sources, prompts, [3, 1, 4]))
    assert all(close(*pair) for pair in zip(*images, strict=True))


@pytest.mark.parametrize("adapter", ["lora", "generation_expert"])
def test_a_bagel_trains_in_bfloat16(bagel_world, tmp_path, adapter):  # noqa: F811
    """All four kinds of samples and the consistency loss, with recomputed activations."""
    recipe = {"steps": 40, "batch_size": 4, "precision": "bf16", "log_every": 20, "save_every": 20}
    hardware = {"activation_checkpointing": True}
    history = train(
        bagel_world, tmp_path, adapter=adapter, consistency=Consistency(0.5), recipe=recipe, hardware=hardware
    )
    assert history["mse"].iloc[-1] < history["mse"].iloc[0]
    assert (history[["mse", "ce", "consistency"]] > 0).all(axis=None)


def test_a_bagel_has_the_losses_of_a_cpu():
    batch, found = batch_of(mixture(dict.fromkeys(KINDS, 1.0))), {}
    for device in ("cpu", "cuda"):
        objective = BagelObjective(small_model().to(device), consistency=Consistency(0.5))
        outputs = objective(batch.to(device))
        outputs["loss"].backward()
        norm = torch.stack([value.norm() for value in gradients(objective).values()]).norm()
        found[device] = [outputs[name].item() for name in ("mse", "ce", "consistency")] + [norm.item()]
    np.testing.assert_allclose(found["cuda"], found["cpu"], rtol=1e-3)


@pytest.mark.usefixtures("_tf32")
def test_encoders_embed_as_on_a_cpu(tmp_path):
    """Metrics are in float32, also where convolutions may be rounded to TF32."""
    torch.manual_seed(0)
    tiny_dino(image_size=224, width=64, layers=2).save_pretrained(tmp_path)
    images = [picture(100, 80, seed) for seed in range(3)]
    one, other = (
        ImageEncoder.from_pretrained(tmp_path, "doundo", device).embed_images(images) for device in ("cpu", "cuda")
    )
    np.testing.assert_allclose(one, other, atol=2e-6)


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_of_diffusers_edits(name, folders):  # noqa: F811
    (image,) = _load(folders, name, "cuda").edit([picture(64, 48)], ["open it"], [0], steps=2)
    assert image.ndim == 3
    assert image.std() > 0
