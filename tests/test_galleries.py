"""What galleries draw and write below their images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.models.editors.protocol import Request
from visdyn.stages.evaluation import galleries_aurora, galleries_doundo
from visdyn.stages.evaluation.galleries_doundo import _SHOWN, _draw_flows, _write_texts, draw_flow
from visdyn.trajectory import Trajectory


def test_no_flow_is_white_and_colours_are_directions():
    flow = np.zeros((10, 10, 2), np.float32)
    flow[0, 0], flow[0, 1], flow[0, 2] = (2, 0), (-2, 0), (1, 0)
    drawn = draw_flow(flow, 2.0)
    assert drawn.dtype == np.uint8
    assert drawn[5, 5].tolist() == [255, 255, 255]
    assert drawn[0, 0].tolist() == [255, 0, 0]
    assert drawn[0, 1, 0] == 0
    assert drawn[0, 1].tolist() != drawn[0, 0].tolist()
    assert 0 < drawn[0, 2, 1] < 255  # half the length, half the colour
    assert np.array_equal(draw_flow(20 * flow, 2.0)[0, 0], drawn[0, 0])
    assert (draw_flow(0 * flow, 0.0) == 255).all()


def test_six_numbers_of_a_sample_and_none_that_is_unknown():
    rows = [("forward", "dino", 0.8), ("forward", "clip_t", 0.26), ("forward", "of_f", 86.2), ("reverse", "dino", 0.69),
            ("reverse", "clip_t", 0.33), ("reverse", "epe", np.nan)]  # fmt: skip
    scores = pd.DataFrame([(*row, "a") for row in rows], columns=["direction", "metric", "value", "id"])
    texts = _write_texts(scores, "doundo", ["a", "b"], _SHOWN["doundo_metrics"])
    assert texts["doundo_forward_text"].tolist() == ["DINO-F 0.8, CLIP-T-F 0.26, OF-F 86.2", ""]
    assert texts["doundo_reverse_text"][0] == "DINO-R 0.69, CLIP-T-R 0.33"


def test_flow_maps_are_of_what_the_metrics_compare():
    def flow(start, end):
        return np.full((4, 4, 2), (ord(end) - ord(start)) / 4, np.float32)

    evaluation = SimpleNamespace(starts=["a"], ends=["b"], flow_between=flow)
    maps = _draw_flows(evaluation, "doundo", np.array([0]), ["b"], ["a"])  # done and undone without a fault
    names = ["doundo_of_f", "doundo_of_r", "doundo_epe"]
    assert list(maps) == [*names, *(f"{name}_text" for name in names)]
    assert all((maps[name] == 255).all() for name in names)
    maps = _draw_flows(evaluation, "doundo", np.array([0]), ["b"], ["c"])  # not undone
    assert (maps["doundo_of_f"] == 255).all()
    assert (maps["doundo_of_r"].min(-1) == 0).all()  # the longest there is: its whole colour
    assert (maps["doundo_epe"].min(-1) == 0).all()
    length = np.hypot(0.5, 0.5)
    assert [maps[f"{name}_text"].item() for name in names] == ["mean 0 px", *[f"mean {length:.3g} px"] * 2]


def test_a_photograph_of_one_s_own_is_led_through_its_actions(tmp_path, monkeypatch):
    Image.new("RGB", (32, 24), "red").save(tmp_path / "table.png")
    asked = SimpleNamespace(photograph="table.png", actions=("wipe it", "lay it"))
    stage = SimpleNamespace(located=lambda name, where: tmp_path / name)
    called = []

    def rolled(model, sources, actions, seed):
        called.append((model, sources[0].shape, actions, seed))
        return np.stack([np.stack([sources[0] + np.uint8(step) for step in range(2)])])

    monkeypatch.setattr(galleries_aurora, "load_model", lambda run, task: (run, task))
    monkeypatch.setattr(galleries_aurora, "roll_out", rolled)
    scenes = galleries_aurora._asked_scene(stage, asked)
    gallery = galleries_aurora._sequence(tmp_path, *scenes, 7)
    assert called == [((tmp_path, "fdp"), (24, 32, 3), [("wipe it", "lay it")], 7)]
    assert gallery["captions"].tolist() == ["wipe it, lay it"]
    assert gallery["step_2_text"].tolist() == ["lay it"]
    assert gallery["step_1"].shape == gallery["source"].shape == (1, 24, 32, 3)


def test_one_system_stands_in_the_strip_of_numbers():
    shown = {("base", 0, "long", "gt"): 1, ("doundo", 0, "long", "gt"): 2, ("Gemini", 0, "long", "gt"): 3}
    assert list(galleries_doundo._keep_reference(shown, "doundo").values()) == [2]
    assert list(galleries_doundo._keep_reference(shown, "absent").values()) == [3]


def test_more_images_are_of_pairs_that_the_examples_do_not_show(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "image.png")
    items = [SimpleNamespace(start=np.zeros((4, 4, 3), np.uint8), end=np.zeros((4, 4, 3), np.uint8), id=str(row),
                             forward_short=f"action {row}") for row in range(9)]  # fmt: skip
    image = [tmp_path / "image.png"] * 9
    own = SystemImages("doundo", "doundo", 0, "trained", "", {Request("long"): image,
                                                              Request("long", "reverse", "gt"): image})  # fmt: skip
    stage = SimpleNamespace(chains=(0,), settings=SimpleNamespace(doundo=SimpleNamespace(variants=("doundo",))),
                            params=SimpleNamespace(gallery=4, prompts=("long",), reference="doundo"))  # fmt: skip
    scores = pd.DataFrame(columns=["system", "chain", "prompt", "reverse_from", "direction", "metric", "id", "value"])
    made = {}
    for count in (9, 3):  # more pairs than the examples show, and fewer
        evaluation = SimpleNamespace(pairs=items[:count], familiarity=None, flow_between=flat, starts=image, ends=image)
        shown = galleries_doundo.doundo_galleries(stage, evaluation, [own], scores)
        made[count] = {name: set(gallery["captions"]) for name, gallery in shown.items()}
    assert not made[9]["doundo_more"] & made[9]["doundo_examples"]
    assert len(made[9]["doundo_more"]) == 4
    assert made[3]["doundo_more"] == made[3]["doundo_examples"]


def flat(start, end):
    return np.zeros((4, 4, 2), np.float32)


def test_below_an_image_stands_what_that_image_was_scored():
    items = [Trajectory("a", "open", "b", "ag", "1"), Trajectory("a", "open", "b", "ag", "2"),
             Trajectory("a", "open", "b", "ag", "3")]  # fmt: skip
    rows = [("1", "score", 8.46), ("1", "success", 1.0), ("2", "score", 0.0), ("2", "success", 0.0),
            ("3", "score", np.nan)]  # fmt: skip
    scores = pd.DataFrame([("fdm", 0, "ag", *row) for row in rows] + [("fdm", 1, "ag", "1", "score", 1.0)],
                          columns=["system", "chain", "subset", "id", "metric", "value"])  # fmt: skip
    assert galleries_aurora.write_verdicts(scores, "fdm", 0, items).tolist() == ["score 8.5 ✓", "score 0.0 ✗", ""]


def test_the_best_candidate_is_the_one_that_the_idm_chooses(tmp_path):
    items = [Trajectory("a", "open", "b", "ag", "1"), Trajectory("a", "open", "b", "ag", "2")]
    settings = SimpleNamespace(verification=SimpleNamespace(candidates=(1, 3)))
    stage = SimpleNamespace(chains=(0, 1), settings=settings, path=lambda name: tmp_path / name)
    drawn = pd.DataFrame(
        [("synthetic_weighted", chain, draw, "ag", "1", candidate, value)
         for chain in (0, 1) for draw in (0, 1) for candidate, value in enumerate((-3.0, -1.0, -2.0, 0.0))],
        columns=["arm", "chain", "draw", "subset", "id", "candidate", "idm_log_likelihood"],
    )  # fmt: skip
    best = galleries_aurora._best_of_candidates(stage, items, drawn)
    assert best["candidate"].tolist() == [1]  # of the first three, and of the first draw of the first chain alone
    assert best["file"].item().as_posix().endswith("synthetic_weighted-s0/draw_0/candidate_1/ag/1.png")
    assert galleries_aurora._best_of_candidates(stage, items, drawn.assign(arm="supervised")).empty
