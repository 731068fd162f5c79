"""What galleries draw and write below their images."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
from PIL import Image

from visdyn.stages.evaluation import galleries_aurora, galleries_doundo
from visdyn.stages.evaluation.galleries_doundo import _SHOWN, _draw_flows, _write_texts, draw_flow


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
