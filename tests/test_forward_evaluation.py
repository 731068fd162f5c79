"""Scoring real data: images of many sizes, no known end states, an item without a target, a system without images."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.metrics.region_judge import judge
from visdyn.evaluation.metrics.region_verdicts import region_verdicts
from visdyn.evaluation.metrics.registry import AURORA, metrics
from visdyn.evaluation.metrics.similarity import l1
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.outputs import FORWARD
from visdyn.trajectory import ReversiblePair, Trajectory

SIZES = [(40, 30), (30, 40), (64, 64), (50, 20)]


class Mean:
    """An encoder for tests: an image's mean colour; a text's length."""

    def embed_images(self, images):
        colours = np.stack([np.asarray(image if isinstance(image, np.ndarray) else Image.open(image).convert("RGB"),
                                       np.float32).mean((0, 1)) + 1 for image in images])  # fmt: skip
        return colours / np.linalg.norm(colours, axis=1, keepdims=True)

    def embed_texts(self, texts):
        vectors = np.array([[len(text), 1.0, 2.0] for text in texts], np.float32)
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def picture(seed, size, low=0):
    return np.random.default_rng(seed).integers(low, 256, (size[1], size[0], 3), dtype=np.uint8)


@pytest.fixture
def items():
    made = []
    for number, size in enumerate(SIZES):
        source = picture(number, size)
        target = source.copy()
        target[: size[1] // 2, : size[0] // 2] = 255 - target[: size[1] // 2, : size[0] // 2]
        made.append(Trajectory(source, "open it", None if number == 3 else target, "ag", str(number)))
    return made


@pytest.fixture
def evaluation(items):
    return ForwardEvaluation(items, ["a", None, "abc", None], None, Mean(), Mean())


def values(table):
    return table.pivot(index="id", columns="metric", values="value")


def test_every_metric_has_a_row_and_what_cannot_be_had_is_empty(evaluation, items):
    predictions = [np.asarray(Image.fromarray(item.source).resize((24, 24))) for item in items]
    found = values(evaluation.score(predictions))
    names = [entry.name for entry in metrics(AURORA) if entry.name != "clip_t_edited"]  # no captioning model here
    assert set(found.columns) == set(names)
    assert found[["success", "copied"]].isna().all(axis=None)  # nobody knows the reachable states
    assert found.loc["3", names].isna().all()  # no target, no caption
    assert found.loc["1", "clip_t"] != found.loc["1", "clip_t"]
    rest = found.loc[["0", "1", "2"]]
    assert not rest.drop(columns=["success", "copied", "clip_t"]).isna().any(axis=None)
    for row, item in enumerate(items[:3]):
        for geometry in ("paper", "matched"):
            assert found.loc[str(row), f"l1_{geometry}"] == pytest.approx(l1(predictions[row], item.target, geometry))
        verdict = judge(item.source, predictions[row], item.target)
        assert found.loc[str(row), "editing_success"] == pytest.approx(verdict.editing_success)


def test_the_target_scores_best_and_a_missing_prediction_has_no_row(evaluation, items):
    oracle = [item.target for item in items]
    found = values(evaluation.score([oracle[0], None, oracle[2], None]))
    assert list(found.index) == ["0", "2"]
    assert found["l1_paper"].tolist() == [0, 0]
    assert found["dino"].tolist() == pytest.approx([1, 1])
    assert (found["editing_success"] == 10).all()


def test_other_captions_other_reading(items):
    evaluation = ForwardEvaluation(
        items, [None] * 4, None, Mean(), Mean(), edited_captions=lambda refs: ["xy"] * len(refs)
    )
    predictions = [item.source for item in items]
    found = values(evaluation.score(predictions))
    expected = [
        float(a @ b) for a, b in zip(Mean().embed_images(predictions), Mean().embed_texts(["xy"] * 4), strict=True)
    ]
    assert found["clip_t"].isna().all()
    assert found["clip_t_edited"].tolist() == pytest.approx(expected)


def test_without_encoders_and_region_judge_the_pixels_remain(items):
    found = values(
        ForwardEvaluation(items, [None] * 4, None, None, None, region=False).score([i.source for i in items])
    )
    filled = found.loc["0"].dropna()
    assert set(filled.index) == {"l1_paper", "l1_matched"}


def test_an_item_without_change_is_empty_and_the_others_are_judged():
    same, source = picture(0, (32, 32)), picture(1, (32, 32))
    target = 255 - source
    found = region_verdicts([same, source], [same, target], [same, target], None)
    assert np.isnan(found["score"][0])
    assert found["editing_success"][1] == 10


def test_baselines_of_items_without_targets(items):
    twice = [
        *items,
        *(Trajectory(picture(9 + n, (9, 9)), "x", picture(20 + n, (9, 9)), "ag", f"{9 + n}") for n in range(2)),
    ]
    copy, oracle, shuffled, *controls = baseline_systems(AURORA_BENCH, twice, AURORA_BENCH.requests(), seed=0)
    assert all(image is not None for image in copy.images[FORWARD])
    assert [image is None for image in oracle.images[FORWARD]] == [item.target is None for item in twice]
    assert "1 items have no published target" in oracle.note
    own = zip(shuffled.images[FORWARD], twice, strict=True)
    assert all(image is None or image is not item.target for image, item in own)
    for control in controls:  # what is made of the target is there where the target is
        assert [image is None for image in control.images[FORWARD]] == [item.target is None for item in twice]
    lonely = baseline_systems(AURORA_BENCH, items[:1], AURORA_BENCH.requests(), 0)[2]
    assert lonely.images == {}
    assert "cannot be exchanged" in lonely.note


@pytest.fixture
def pairs():
    return [
        ReversiblePair(picture(n, SIZES[n]), picture(n + 50, SIZES[n]), "open the door", "close the door", "open door",
                       "close door", "open door", "open", "door", f"P01_{n}")
        for n in range(3)
    ]  # fmt: skip


def test_do_undo_with_the_editors_own_sizes(pairs):
    captions = (["a", "b", "c"], [None, "b", "c"])
    evaluation = EditingEvaluation(pairs, captions, None, Mean(), Mean(), flow_size=64, prompts=True)
    doubled = [np.asarray(Image.fromarray(pair.end).resize((96, 80))) for pair in pairs]
    back = [np.asarray(Image.fromarray(pair.start).resize((96, 80))) for pair in pairs]
    table = evaluation.score([*doubled[:2], None], {"gt": back, "generated": [*back[:2], None]})
    counts = table.groupby(["direction", "reverse_from", "metric"])["value"].agg(["size", "count"])
    assert counts.loc[("forward", "", "dino")].tolist() == [2, 2]
    assert counts.loc[("forward", "", "clip_prompt")].tolist() == [2, 2]
    assert counts.loc[("forward", "", "clip_t")].tolist() == [2, 1]
    assert counts.loc[("forward", "", "success")].tolist() == [2, 0]
    assert counts.loc[("reverse", "gt", "epe")].tolist() == [3, 2]  # the third was undone from the true end
    assert counts.loc[("reverse", "generated", "epe")].tolist() == [2, 2]
    plain = table[table["metric"].isin(["epe", "of_f"])].set_index(["direction", "reverse_from", "id", "metric"])[
        "value"
    ]
    shares = table[table["metric"].isin(["epe_norm", "of_f_norm"])]
    for row in shares.itertuples():
        pixels = plain[row.direction, row.reverse_from, row.id, row.metric.removesuffix("_norm")]
        assert row.value == pytest.approx(pixels / 64, nan_ok=True)


def test_chunks_of_pairs_change_nothing(pairs, monkeypatch):
    captions = (["a"] * 3, ["b"] * 3)
    ends, starts = [pair.end for pair in pairs], [pair.start for pair in pairs]
    whole = EditingEvaluation(pairs, captions, None, Mean(), Mean(), flow_size=64).score(ends, {"gt": starts})
    monkeypatch.setattr("visdyn.evaluation.benches.bench_doundo.AT_ONCE", 2)
    parts = EditingEvaluation(pairs, captions, None, Mean(), Mean(), flow_size=64).score(ends, {"gt": starts})
    order = ["direction", "id", "metric"]
    pd.testing.assert_frame_equal(
        whole.sort_values(order, ignore_index=True), parts.sort_values(order, ignore_index=True)
    )
