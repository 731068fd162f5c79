"""`python -m visdyn.evaluation.score`: a folder of images, made by whatever program, without the pipeline."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from fake_endpoint import completion
from PIL import Image
from tiny_classifier import save_classifier

from visdyn.evaluation.score import main
from visdyn.evaluation.systems.baselines import BASELINES

RNG = np.random.default_rng(0)
NO_ENCODERS = ["--clip", "", "--dino", ""]


def save(path, size=(40, 30), array=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    made = RNG.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8) if array is None else array
    Image.fromarray(made).save(path)
    return path


@pytest.fixture
def aurora(tmp_path):
    """AURORA-Bench's layout: five items of two sizes, one without its target; a system without the first image."""
    root, items = tmp_path / "aurora", []
    for number in range(5):
        source = save(root / f"images/{number}-input.png", ((40, 30), (32, 32))[number % 2])
        if number != 4:
            save(root / f"images/{number}-output.png", ((40, 30), (32, 32))[number % 2])
        if number:
            save(tmp_path / f"mine/{number}.png", array=255 - np.asarray(Image.open(source)))
        items.append({"task": "ag", "instruction": f"open item {number}", "input": f"images/{number}-input.png",
                      "output": f"images/{number}-output.png"})  # fmt: skip
    (root / "test.json").write_text(json.dumps(items))
    return root


def test_a_folder_of_aurora_bench_is_scored_and_judged_once(aurora, tmp_path, serve, capsys):
    server = serve(lambda name, nth, repeat: completion(json.dumps({"score": [int(name), 6]})))
    command = [str(tmp_path / "mine"), "--bench", "aurora", "--root", str(aurora), *NO_ENCODERS, "--repeats", "2",
               "--judge", "endpoint:judge-1", "--base-url", server.url, "--key-variable", "JUDGE_KEY"]  # fmt: skip
    main(command)
    out = tmp_path / "mine-scores"
    scores = pd.read_csv(out / "scores.csv", dtype={"id": str})
    own = scores[scores["system"] == "mine"].pivot(index="id", columns="metric", values="value")
    assert list(own.index) == ["1", "2", "3", "4"]
    assert own.loc["4"].isna().all()  # no target
    assert own.loc[["1", "2", "3"], "l1_matched"].notna().all()
    assert set(scores["system"]) == {"mine", *BASELINES}
    oracle = scores[(scores["system"] == "oracle") & (scores["metric"] == "l1_paper")]
    assert (oracle["value"] == 0).all()
    judged = pd.read_csv(out / "judge_scores.csv", dtype={"id": str})
    success = judged[judged["criterion"] == "editing_success"]
    assert success.groupby("id")["value"].mean().to_dict() == {"1": 1, "2": 2, "3": 3, "4": 4}
    printed = capsys.readouterr().out
    assert "4 of 5 items have an image" in printed
    assert "mine/ag/0: no image of this item" in printed
    asked = dict(server.seen)
    main(command)
    assert server.seen == asked
    assert pd.read_csv(out / "judge_runs.csv")["reused"].tolist() == [8]


def test_a_folder_in_the_authors_layout_is_scored(tmp_path, capsys):
    rows, size = [], (48, 32)
    for number in range(3):
        frames = tmp_path / "epic/P01/rgb_frames/P01_01"
        start, end = (save(frames / f"frame_{10 * number + shift:010d}.jpg", size) for shift in (1, 5))
        save(tmp_path / f"theirs/P01_01_{number}_fwd.png", array=np.asarray(Image.open(end)))
        save(tmp_path / f"theirs/P01_01_{number}_rev.png", array=np.asarray(Image.open(start)))
        rows.append({"narration_id": f"P01_01_{number}", "participant_id": "P01", "video_id": "P01_01",
                     "start_frame": 10 * number + 1, "stop_frame": 10 * number + 5, "narration": "open door",
                     "verb_class": 3, "noun_class": 4, "forward_prompt": "the hand opens the door",
                     "reverse_prompt": "the hand closes the door"})  # fmt: skip
    (tmp_path / "annotations_test.json").write_text(json.dumps(rows))
    command = [str(tmp_path / "theirs"), "--bench", "doundo", "--root", str(tmp_path / "epic"), *NO_ENCODERS]
    main([*command, "--annotations", str(tmp_path / "annotations_test.json"), "--flow-size", "64",
          "--flow", "farneback", "--prompt", "short", "--out", str(tmp_path / "out"),
          "--classifier", str(save_classifier(tmp_path / "tiny.pth"))])  # fmt: skip
    scores = pd.read_csv(tmp_path / "out/scores.csv", keep_default_na=False, na_values=["nan"])
    means = scores[scores["value"] != ""].assign(value=lambda t: t["value"].astype(float))
    own = means[means["system"] == "theirs"].groupby(["direction", "reverse_from", "metric"])["value"].mean()
    assert own["forward", "", "l1"] == own["reverse", "gt", "l1"] == 0
    assert own["forward", "", "epe_f"] == 0  # its images are the true ones
    assert "generated" not in own.index.get_level_values("reverse_from")  # the folder has none
    assert set(scores["system"]) == {"theirs", *BASELINES}
    assert set(scores["prompt"]) == {"short"}  # the baselines stand beside it
    assert own["forward", "", "action_accuracy"] in (0, 1)  # the same clip three times
    printed = capsys.readouterr().out
    assert "0 set aside" in printed
    (tmp_path / "theirs/P01_01_1_fwd.png").unlink()
    (tmp_path / "theirs/P01_01_2_rev.png").write_bytes(b"no image")
    main([*command, "--annotations", str(tmp_path / "annotations_test.json"), "--flow-size", "64",
          "--flow", "farneback", "--prompt", "short", "--out", str(tmp_path / "out"),
          "--classifier", str(tmp_path / "tiny.pth")])  # fmt: skip
    newer = pd.read_csv(tmp_path / "out/newer_version.csv").set_index(["system", "column"])
    assert newer.loc["theirs", ["n", "failed"]].to_dict("index") == {
        "DINO-F": {"n": 0, "failed": 3}, "DINO-R": {"n": 0, "failed": 3},  # no encoder
        "A-F": {"n": 2, "failed": 1}, "A-R": {"n": 2, "failed": 1}, "N-F": {"n": 2, "failed": 1},
        "N-R": {"n": 2, "failed": 1}, "EPE-F": {"n": 2, "failed": 1}, "EPE-R": {"n": 2, "failed": 1},
    }  # fmt: skip
    assert set(newer["value"].loc[:, ["A-F", "A-R", "N-F", "N-R"]].dropna()) <= {0, 50, 100, 100 / 3, 200 / 3}
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert "2 set aside" in lines
    assert any(line.startswith("theirs/P01_01_1_fwd: no image of this item") for line in lines)
    assert any(line.startswith("theirs/P01_01_2_rev: image") and "cannot be decoded" in line for line in lines)
    with pytest.raises(SystemExit, match="needs --annotations"):
        main(command)
