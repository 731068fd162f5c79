"""Each named equation, broken in its source: what the pipeline computes changes, not only the function's own tests.

A pipeline's call (a stage's function, an objective, a recipe's loss) on a toy gives the value that the paper's formula
gives by hand; with one sign, factor or index of the named function changed it gives another.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_bagel_model import small_model
from test_editing_evaluation import _Mean
from toy_bagel import batch_of, mixture

from visdyn.datasets.clips import find_clips
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.metrics import optical_flow
from visdyn.evaluation.systems.candidate_systems import best_of_rows
from visdyn.evaluation.systems.doundo_systems import images_of
from visdyn.inference import do_undo, verification
from visdyn.inference.candidates import KEYS
from visdyn.mining import clip_motion, keyframes, stratified
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.models.editors.protocol import Request
from visdyn.models.token.sequences import collate
from visdyn.params.doundo import Consistency
from visdyn.stages.annotation import select
from visdyn.training import losses
from visdyn.training.bagel.objective import BagelObjective
from visdyn.training.dynamics import CompletionLoss
from visdyn.training.dynamics_data import DynamicsData
from visdyn.training.triplets import dynamics_dataset
from visdyn.trajectory import ReversiblePair, Trajectory


@pytest.fixture
def mutate(monkeypatch):
    """Return what changes one place of a function's source, for whoever imported the function, and however."""

    def mutate(function: Callable, old: str, new: str) -> None:
        source = textwrap.dedent(inspect.getsource(function))
        assert source.count(old) == 1, f"{function.__name__} has {old!r} {source.count(old)} times"
        made: dict = {}
        code = compile(source.replace(old, new), function.__name__, "exec", __future__.annotations.compiler_flag)
        exec(code, function.__globals__, made)
        monkeypatch.setattr(function, "__code__", made[function.__name__].__code__)

    return mutate


def differs(left, right) -> bool:
    left, right = np.asarray(left, float), np.asarray(right, float)
    return left.shape != right.shape or not np.allclose(left, right, rtol=1e-3, atol=1e-5)


FLOOR = 0.25


@pytest.mark.parametrize("codes", ["", "codes"], ids=["file", "cache"])
@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (None, "", ""),
        (losses.recognition_weights, "target_features.float() - source", "target_features.float() + source"),
        (losses.recognition_weights, ".pow(2)", ".abs()"),
        (losses.recognition_weights, ".sum(1)", ".amax(1)"),
        (losses.recognition_weights, "distances.flatten(1)", "distances.flatten(1).roll(1, 1)"),
        (losses.recognition_weights, "distances.flatten(1)", "-distances.flatten(1)"),
        (losses.normalise_weights, "weights + floor", "weights - floor"),
        (losses.normalise_weights, "(1 - floor)", "(1 + floor)"),
    ],
)
def test_an_fdm_trains_with_eq_2(tiny, scenes, tmp_path, mutate, function, old, new, codes):
    """From images to the weights of training sequences, through a stage's file of codes and through the cache."""
    for row in range(4):
        Image.fromarray(scenes[row]).save(tmp_path / f"{row}.png")
    items = [Trajectory(tmp_path / f"{row}.png", "open", tmp_path / f"{row + 2}.png", "ag", str(row)) for row in (0, 1)]
    if function:
        mutate(function, old, new)
    cache = tmp_path / codes if codes else None
    part = DynamicsData("base", None, 0, tmp_path, codes=cache, _model=tiny).encode(items, "triplets")
    sequences = dynamics_dataset([part.path], tiny.builder, "fdm", "recognition", FLOOR)
    sources, targets = (tiny.vqgan.features(tiny.pixels(list(scenes[ends]))) for ends in (slice(2), slice(2, 4)))
    distances = ((targets - sources).detach().numpy().astype(float) ** 2).sum(1).reshape(2, -1)
    expected = (1 - FLOOR) * distances / distances.mean(1, keepdims=True) + FLOOR
    found = np.stack([sequence.weights[1:-2] for sequence in sequences])  # without markers and end of sequence
    assert differs(found, expected) is (function is not None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("/ weights.sum()", "/ (targets != IGNORED).sum()"),
        ("weights * (targets", "(targets"),
        ("return sum", "return -sum"),
        ("weights.reshape(-1)", "weights.reshape(-1).roll(1)"),
    ],
)
@torch.inference_mode()
def test_a_recipe_minimises_the_weighted_cross_entropy(tiny, grids, mutate, old, new):
    weights = np.linspace(0, 3, 16, dtype=np.float32)
    item = tiny.builder.forward(grids[0], "open", grids[1], weights)
    logits = tiny.lm(input_ids=torch.from_numpy(np.concatenate([item.prompt, item.completion]))[None]).logits[0]
    nll = -logits[len(item.prompt) - 1 : -1].log_softmax(-1).numpy()[range(len(item.completion)), item.completion]
    if old:
        mutate(losses.weighted_cross_entropy, old, new)
    found = CompletionLoss(tiny.lm)(**collate([item], tiny.layout.pad))["loss"]
    assert differs(found, (nll * item.weights).sum() / item.weights.sum()) is bool(old)


@pytest.fixture(scope="module")
def bagel():
    """A model, a batch of edits and undos, and what the model predicts for it."""
    model, batch = small_model(), batch_of(mixture({"edit": 1.0, "undo": 1.0}, 4, seed=1))
    with torch.no_grad():
        return model, batch, model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("(noise - clean)", "(clean - noise)"),
        ("velocity.float() - (", "velocity.float() + ("),
        (".square()", ".abs()"),
        (".mean(1)", ".sum(1)"),
    ],
)
@torch.no_grad()
def test_bagel_minimises_the_rectified_flow_loss(bagel, mutate, old, new):
    model, batch, output = bagel
    expected = ((output.velocity - (output.noise - output.clean)) ** 2).mean()
    if old:
        mutate(losses.rectified_flow_loss, old, new)
    found = BagelObjective(model, timestep_shift=model.config.timestep_shift)(batch)
    assert differs(found["mse"], expected) is bool(old)
    assert differs(found["loss"], expected) is bool(old)


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (None, "", ""),
        (losses.predict_clean, "noisy - timesteps", "noisy + timesteps"),
        (losses.consistency_loss, "(predicted - target)", "(predicted + target)"),
        (losses.consistency_loss, ".abs()", ".square()"),
        (losses.consistency_loss, ".mean(1)", ".sum(1)"),
        (losses.consistency_loss, "timesteps < t_gate", "timesteps >= t_gate"),
    ],
)
@torch.no_grad()
def test_bagel_minimises_the_consistency_loss(bagel, mutate, function, old, new):
    """|I_o - I_R^| of the undos below the gate: the batch has one below it, and others above."""
    model, batch, output = bagel
    undone = output.noised - output.timesteps[:, None] * output.velocity
    undos = torch.cat([torch.full((h * w,), is_undo) for is_undo, (h, w) in batch.targets])
    times = output.timesteps[undos].unique()  # sorted
    assert len(times) > 1
    gate = float(times[:2].mean())
    counts = undos & (output.timesteps < gate)
    expected = (output.clean - undone)[counts].abs().mean()
    if function:
        mutate(function, old, new)
    consistency = Consistency(0.5, t_gate=gate)
    objective = BagelObjective(model, timestep_shift=model.config.timestep_shift, consistency=consistency)
    found = objective(batch)
    assert differs(found["consistency"], expected) is (function is not None)
    assert differs(found["loss"], found["mse"] + 0.5 * expected) is (function is not None)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ("-score(item)", "score(item)"),
        ("popleft()", "pop()"),
        ("len(selected) == k", "len(selected) == k + 1"),
        ("min(k, len(items))", "min(k - 1, len(items))"),
        ("if of_class:", "while of_class:"),
    ],
)
def test_the_annotation_stage_selects_by_algorithm_1(mutate, old, new):
    scores = {"a": [5, 4, 3, 1], "b": [2], "c": [6]}
    labelled = [
        SimpleNamespace(pair=SimpleNamespace(dataset="d"), class_name=name, score=float(value), id=f"{name}{value}")
        for name, values in scores.items()
        for value in values
    ]
    if old:
        mutate(stratified.stratified_top_k, old, new)
    found = [[item.id for item in select(labelled, k)] for k in (2, 5)]
    assert (found != [["c6", "a5"], ["c6", "a5", "b2", "a4", "a3"]]) is bool(old)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A folder of 50 frames that stand still but for jumps of 1, 3 and 2 pixels, to frames 10, 15 and 40."""
    folder = tmp_path_factory.mktemp("clips") / "d/c/v"
    folder.mkdir(parents=True)
    coarse = np.random.default_rng(0).integers(0, 255, (8, 8, 3)).astype(np.uint8)
    scene = np.asarray(Image.fromarray(coarse).resize((64, 64), Image.Resampling.BICUBIC))
    for index in range(50):
        shift = (index >= 10) + 3 * (index >= 15) + 2 * (index >= 40)
        Image.fromarray(np.roll(scene, shift, axis=1)).save(folder / f"{index:03d}.png")
    return find_clips(folder.parents[2])


@pytest.mark.parametrize(
    ("function", "old", "new"),
    [
        (None, "", ""),
        (keyframes.select_keyframes, "motion[statistic], top_k", "motion[statistic], top_k - 1"),
        (keyframes.select_keyframes, "motion[statistic], top_k", "-motion[statistic] + 9, top_k"),
        (keyframes._rank_frames, "np.argsort(-profile", "np.argsort(profile"),
        (keyframes._keep_spaced, ">= min_interval", "> min_interval"),
        (clip_motion._flow_fields, "estimate(previous, frame)", "estimate(frame, frame)"),
    ],
)
def test_clips_are_mined_by_the_key_frames_of_the_map(clip, mutate, function, old, new):
    if function:
        mutate(function, old, new)
    pairs = mine_clips(clip, ClipSettings(top_k=2, min_interval=25)).pairs
    assert ([(pair.frame_a, pair.frame_b) for pair in pairs] != [(15, 40)]) is (function is not None)


@pytest.mark.parametrize("new", ["", "int(np.argmin(", "-1 + int(np.argmax("])
def test_the_verification_stage_and_best_of_k_choose_by_one_function(mutate, new):
    rewards = [-3.0, -1.0, -2.0, -0.5]
    rows = {"arm": "a", "chain": 0, "draw": 0, "subset": "s", "id": "1", "fdm_log_likelihood": 0.0}
    table = pd.DataFrame(
        [
            {**rows, "candidate": index, "value": 10.0 * index, "idm_log_likelihood": reward}
            for index, reward in enumerate(rewards)
        ]
    )
    if new:
        mutate(verification.choose_best, "int(np.argmax(", new)
    scores = table[[*KEYS, "candidate", "value"]].assign(metric="score")
    chosen = best_of_rows(table, scores, [3], None).set_index("system")["value"]
    assert bool(chosen["a_best_of_3"] != 10.0) is bool(new)
    fdm = SimpleNamespace(sample=lambda source, action, k, generator: np.zeros((k, 1, 1, 3), np.uint8))
    idm = SimpleNamespace(log_likelihood=lambda *_: torch.tensor(rewards[:3]))
    assert (verification.best_of_k(fdm, idm, None, "open", 3).index != 1) is bool(new)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("", ""),
        ('done if origin == "generated"', 'done if origin != "generated"'),
        ("pair.start, half.action", "pair.end, half.action"),
        ("[pair.reverse(prompt_length)]", "[pair.forward(prompt_length)]"),
    ],
)
def test_the_evaluation_does_and_undoes_by_the_function_of_the_map(mutate, old, new):
    """With the editor f(image, prompt) = 2 image + (1 to do, 3 to undo)."""
    pair = ReversiblePair(
        np.full((2, 2, 3), 5, np.uint8), np.full((2, 2, 3), 7, np.uint8), "do", "undo", "do", "undo", "", "", "", "1"
    )
    if old:
        mutate(do_undo.do_and_undo, old, new)

    def edit(wanted):
        return [np.asarray(one.source) * 2 + {"do": 1, "undo": 3}[one.prompt] for one in wanted]

    images = images_of([pair], "long", ("gt", "generated"), 0, edit)
    asked = (Request("long"), Request("long", "reverse", "gt"), Request("long", "reverse", "generated"))
    found = [int(np.asarray(images[request])[0, 0, 0, 0]) for request in asked]
    assert (found != [11, 17, 25]) is bool(old)


@pytest.mark.parametrize(
    ("function", "old", "new", "metric"),
    [
        (None, "", "", ""),
        (optical_flow.epe_forward, "flow(start, end) - flow", "flow(start, end) + flow", "epe_f"),
        (optical_flow.epe_reverse, "flow(start, ", "flow(start + 1, ", "epe_r"),
        (optical_flow.epe_v1, "flow(start, generated) - flow", "flow(start, generated) + flow", "epe"),
        (optical_flow.epe_v1, "flow(generated_reverse, generated)", "flow(generated, generated_reverse)", "epe"),
        (optical_flow.of_f, "flow(end, ", "flow(end // 2, ", "of_f"),
    ],
)
def test_the_benchmark_measures_flow_errors_by_the_functions_of_the_map(mutate, function, old, new, metric):
    """Flat images, and a flow of both axes that is the difference of their levels."""
    start, end, done, undone = (np.full((8, 8, 3), level, np.uint8) for level in (10, 30, 22, 14))
    pair = ReversiblePair(start, end, "do", "undo", "do", "undo", "", "open", "cup", "1")

    def levels(first, second):
        return second[..., :2].astype(np.float32) - first[..., :2].astype(np.float32)

    evaluation = EditingEvaluation(
        [pair], (["a"], ["b"]), ([[end]], [[start]]), _Mean(), _Mean(), flow_backend=levels, region=False
    )
    if function:
        mutate(function, old, new)
    table = evaluation.score([done], {"gt": [undone]}).set_index("metric")["value"]
    expected = {"epe_f": 20 - 12, "epe_r": 4, "epe": 12 - 8, "of_f": 8}
    wrong = [name for name, value in expected.items() if differs(table[name], value * 2**0.5)]
    assert wrong == ([metric] if metric else [])
