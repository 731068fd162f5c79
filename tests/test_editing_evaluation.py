"""The Do-Undo metrics on known images: what perfect, copying and never-returning systems get."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.metrics.optical_flow import epe_forward, epe_reverse, epe_v1, estimate, of_f
from visdyn.kitchen.render import render
from visdyn.kitchen.scene import make_scene, random_transition
from visdyn.kitchen.text import canonical
from visdyn.trajectory import ReversiblePair


class _Mean:
    """An encoder for tests: the image's mean colour; texts all alike."""

    def embed_images(self, images):
        colours = np.stack([np.asarray(image, np.float32).mean((0, 1)) + 1 for image in images])
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)

    def embed_texts(self, texts):
        return np.full((len(texts), 3), 3**-0.5, np.float32)


@pytest.fixture(scope="module")
def evaluation():
    rng, pairs, candidates = np.random.default_rng(0), [], ([], [])
    for index in range(4):
        step = random_transition(rng, make_scene(0, "test", index), "open")
        start, end = (render(state, step.scene) for state in (step.start, step.end))
        text = canonical(step.action)
        pairs.append(ReversiblePair(start, end, text, "close it", text, "close it", text, "open", "drawer", str(index)))
        candidates[0].append([end])
        candidates[1].append([start])
    return EditingEvaluation(pairs, (["a"] * 4, ["b"] * 4), candidates, _Mean(), _Mean())


def means(evaluation, forward, reverse):
    table = evaluation.score(forward, {"gt": reverse})
    return table.groupby(["direction", "metric"])["value"].mean()


def test_a_perfect_system_succeeds_jointly_and_has_no_flow_error(evaluation):
    found = means(evaluation, evaluation.ends, evaluation.starts)
    assert found["forward", "success"] == found["reverse", "joint"] == 1
    assert found["forward", "score"] > 8  # sensor noise outside the changed region costs the rest
    for metric in (("forward", "epe_f"), ("forward", "of_f"), ("reverse", "epe_r"), ("reverse", "epe")):
        assert found[metric] == pytest.approx(0, abs=0.02)  # Farneback sees a little motion between equal images


def test_copying_returns_for_free_but_never_jointly(evaluation):
    found = means(evaluation, evaluation.starts, evaluation.starts)
    assert found["forward", "success"] == 0
    assert found["forward", "score"] == 0
    assert found["reverse", "returned"] == 1
    assert found["reverse", "joint"] == 0
    assert found["forward", "epe_f"] > 0


def test_doing_without_undoing_is_no_joint_success(evaluation):
    found = means(evaluation, evaluation.ends, evaluation.ends)
    assert found["forward", "success"] == 1
    assert found["reverse", "joint"] == found["reverse", "returned"] == 0
    assert found["reverse", "epe_r"] > 0
    assert found["reverse", "epe_norm"] == pytest.approx(found["reverse", "epe"] / 64)  # the images' own side


def test_both_reverse_sources_are_scored_apart(evaluation):
    table = evaluation.score(evaluation.ends, {"gt": evaluation.starts, "generated": evaluation.ends})
    joint = table[table["metric"] == "joint"].groupby("reverse_from")["value"].mean()
    assert joint.to_dict() == {"gt": 1.0, "generated": 0.0}


def test_every_row_says_how_familiar_its_pair_is(evaluation):
    told = replace(evaluation, familiarity=["rare", "common", "unseen", "common"])
    table = told.score([None, *told.ends[1:]], {"gt": told.starts})
    assert table.groupby("familiarity")["id"].unique().map(set).to_dict() == {
        "rare": {"0"}, "common": {"1", "3"}, "unseen": {"2"}
    }  # fmt: skip
    assert set(evaluation.score(evaluation.ends, {})["familiarity"]) == {""}


def test_flow_errors_are_those_of_the_named_functions_and_shared_flows_are_estimated_once(evaluation):
    calls = []

    def levels(start, end):
        calls.append((start, end))
        return end[..., :2].astype(np.float32) - start[..., :2].astype(np.float32)

    known = replace(evaluation, flow_backend=levels, region=False)
    forward = [255 - image for image in map(np.asarray, known.ends)]
    reverse = [255 - image for image in map(np.asarray, known.starts)]
    table = known.score(forward, {"gt": reverse, "generated": reverse[::-1]})
    found = table[table["reverse_from"].isin(["", "gt"])].set_index(["metric", "id"])["value"]
    flow = partial(estimate, backend=levels, size=None)
    count = len(calls)
    for row, (pair, done, undone) in enumerate(zip(known.pairs, forward, reverse, strict=True)):
        assert found["epe_f", str(row)] == epe_forward(pair.start, pair.end, done, flow).pixels
        assert found["epe_r", str(row)] == epe_reverse(pair.start, undone, flow).pixels
        assert found["epe", str(row)] == epe_v1(pair.start, done, undone, flow).pixels
        assert found["of_f", str(row)] == of_f(pair.end, done, flow).pixels
    assert count == len(known.pairs) * 7  # 3 of the forward image; of each reverse one 2
    count = len(calls)
    known.score(forward, {"gt": reverse})
    assert len(calls) - count == len(known.pairs) * 4  # true flows are kept
