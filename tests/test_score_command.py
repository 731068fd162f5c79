"""`visdyn score`: a folder of images, made by whatever program, without the pipeline."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fake_endpoint import completion
from PIL import Image
from tiny_classifier import save_classifier

from visdyn.commands.score_folder import describe_p, main
from visdyn.evaluation.score import ScoreError, score
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
    with pytest.raises(ScoreError, match="needs --annotations"):
        main(command)


def test_a_folder_that_is_not_there_or_holds_something_else_is_refused_and_writes_nothing(aurora, tmp_path):
    with pytest.raises(ScoreError, match="nowhere is no folder"):
        score(tmp_path / "nowhere", "aurora", aurora, encoders="none")
    save(tmp_path / "other/holiday.png")
    with pytest.raises(
        ScoreError, match=r"no image of the benchmark's 5 items: it holds 1 image files, .*holiday\.png"
    ):
        main([str(tmp_path / "other"), "--bench", "aurora", "--root", str(aurora), *NO_ENCODERS])
    (tmp_path / "empty").mkdir()
    with pytest.raises(ScoreError, match="no image file"):
        score(tmp_path / "empty", "aurora", aurora, encoders="none")
    with pytest.raises(ValueError, match="no benchmark 'aurroa'"):
        score(tmp_path / "mine", "aurroa", aurora)
    with pytest.raises(TypeError, match="score takes no 'encoder'"):
        score(tmp_path / "mine", "aurora", aurora, encoder="none")
    assert not list(tmp_path.glob("*-scores"))


def test_every_system_is_scored_on_the_items_that_the_folder_has(aurora, tmp_path, capsys):
    (tmp_path / "mine/3.png").unlink()
    scored = score(tmp_path / "mine", "aurora", aurora, encoders="none")
    assert [item.id for item in scored.items] == ["1", "2", "4"]
    assert scored.expected == 5
    counts = scored.tables["scores"].groupby("system")["id"].nunique()
    assert counts["mine"] == counts["copy"] == 3
    assert counts["oracle"] == 2  # item 4 has no target
    board = scored.tables["leaderboard"]
    assert set(board.loc[board["metric"] == "l1_paper", "n"]) == {2}
    assert scored.notes == ("CLIP: left out", "DINO: left out")
    assert sorted(scored.tables["quarantine"]["item"]) == ["mine/ag/0", "mine/ag/3"]


def test_the_card_has_n_what_is_missing_the_rows_and_pictures(aurora, tmp_path, capsys):
    main([str(tmp_path / "mine"), "--bench", "aurora", "--root", str(aurora), *NO_ENCODERS, "--pictures", "2",
          "--name", "<mine>"])  # fmt: skip
    page = (tmp_path / "mine-scores/card.html").read_text()
    assert "n = 4 of 5 items (1 without an image" in page
    assert "&lt;mine&gt;" in page
    assert "<mine>" not in page
    assert "&lt;mine&gt;/ag/0" in page
    for system in BASELINES:
        assert f"<th>{system}</th>" in page
    assert page.count("<figure>") == 6  # worst, best and spread, two each
    assert page.count("data:image/png;base64,") == 18
    assert "open item 3" in page
    assert "http" not in page
    printed = capsys.readouterr().out
    assert "<mine> on aurora: 4 of 5 items have an image; every row below is over these items alone" in printed
    assert "card.html" in printed


def test_encoders_are_the_papers_or_the_small_ones_or_none_and_it_is_said(aurora, tmp_path, monkeypatch):
    from visdyn.evaluation import score as module

    taken = []
    for kind in ("ImageTextEncoder", "ImageEncoder"):
        fake = type(kind, (), {"from_pretrained": classmethod(lambda cls, *given: taken.append(given[:2]))})
        monkeypatch.setattr(module, kind, fake)
    monkeypatch.setattr(module, "repository_root", lambda: tmp_path / "checkout")
    monkeypatch.setattr(module, "_is_cached", lambda name: False)
    none = score(tmp_path / "mine", "aurora", aurora)
    assert taken == []
    assert "hf download openai/clip-vit-base-patch32" in none.notes[0]
    with pytest.raises(ScoreError, match="models/clip is not here"):
        score(tmp_path / "mine", "aurora", aurora, encoders="embedded")
    for name in ("clip", "dino"):
        (tmp_path / "checkout/models" / name).mkdir(parents=True)
    small = score(tmp_path / "mine", "aurora", aurora)
    assert [preset for _, preset in taken] == ["embedded", "embedded"]
    assert "the kit's own small one" in small.notes[0]
    monkeypatch.setattr(module, "_is_cached", lambda name: True)
    taken.clear()
    score(tmp_path / "mine", "aurora", aurora)
    assert taken == [("openai/clip-vit-base-patch32", "bootstrapping"), ("facebook/dino-vits16", "bootstrapping")]


def test_an_encoder_out_of_reach_is_one_sentence(aurora, tmp_path, monkeypatch):
    from visdyn.evaluation import score as module

    def refuse(*_):
        raise OSError("couldn't connect")

    monkeypatch.setattr(module.ImageTextEncoder, "from_pretrained", refuse)
    with pytest.raises(ScoreError, match="CLIP some/clip is neither a folder nor in the Hugging Face cache"):
        score(tmp_path / "mine", "aurora", aurora, clip="some/clip", dino="")


def test_an_own_metric_and_an_own_benchmark_are_scored(aurora, tmp_path, monkeypatch):
    from visdyn.evaluation.metrics import registry

    monkeypatch.setattr(registry, "_METRICS", dict(registry._METRICS))
    file, empty = (str(Path(__file__).with_name(name)) for name in ("own_models.py", "toy.py"))
    scored = score(tmp_path / "mine", "aurora", aurora, encoders="none", plugin=[file])
    assert "rmse" in set(scored.tables["leaderboard"]["metric"])
    with pytest.raises(ScoreError, match="holds no Metric"):
        score(tmp_path / "mine", "aurora", aurora, encoders="none", plugin=[empty])
    for number in range(3):
        save(tmp_path / f"pairs/{number}-a.png", (16, 16))
        save(tmp_path / f"pairs/{number}-b.png", (16, 16))
        save(tmp_path / f"answers/{number}.png", (16, 16))
    own = score(tmp_path / "answers", f"{file}:Pairs", tmp_path / "pairs", plugin=[file])
    board = own.tables["leaderboard"].set_index(["metric", "system"])
    assert board.loc[("rmse_pairs", "oracle"), "mean"] == 0
    assert board.loc[("rmse_pairs", "answers"), "n"] == 3


def test_a_small_p_is_not_printed_as_zero():
    assert [describe_p(p) for p in (0.0, 0.0009, 0.25, float("nan"))] == ["<.001", "<.001", "0.250", ""]
