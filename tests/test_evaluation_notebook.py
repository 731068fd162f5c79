"""Notebooks 08 and 08d by parameters alone, on real data's layouts, with every diffusers baseline.

Each baseline is a tiny pipeline of its class. Beside them an editor behind an endpoint, folders made elsewhere, a judge
over HTTP, and models that are not there.
"""

from __future__ import annotations

from collections import Counter
from importlib.util import find_spec

import pandas as pd
import pytest
import rehearsal
import yaml
from fake_endpoint import KEY
from PIL import Image
from test_api_editor import EditServer, inverted
from tiny_classifier import save_classifier
from tiny_pipelines import SMALL_AREAS, SMALL_KONTEXT, SMALL_PIX2PIX, save_pipelines

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.systems.baselines import BASELINES
from visdyn.models.editors.diffusers_editors import KONTEXT, PIX2PIX, QWEN, QWEN_PLUS
from visdyn.paths import repository_root

ROOT = repository_root()
EDITORS = {
    "InstructPix2Pix": PIX2PIX,
    "FLUX Kontext": KONTEXT,
    "Qwen-Image-Edit": QWEN,
    "Qwen-Image-Edit-2509": QWEN_PLUS,
}
ITEMS = 2  # of each subset, and pairs
FLOW = "farneback" if find_spec("torchvision") else "auto"  # which is Farneback where torchvision is absent


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """An external profile with data, checkpoints, pipelines and imported images; the test fills in addresses."""
    root = tmp_path_factory.mktemp("profile")
    data, words = rehearsal.write_data(root / "real"), rehearsal.vocabulary()
    encoders = {name: str(rehearsal.save_encoders(root / "encoders", words)[name]) for name in ("clip", "dino")}
    anole, bagel = rehearsal.save_tiny_anole(root / "anole", words), rehearsal.save_bagel(root / "bagel", words)
    pipelines = save_pipelines(root / "pipelines")
    items = load_bench(data / "aurora")
    for item in items[1:]:  # flat, without the first
        (root / "SmartEdit").mkdir(exist_ok=True)
        Image.open(item.source).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / f"SmartEdit/{item.id}.png")
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    values |= {"root": str(ROOT)}
    values["runtime"] |= {"device": "cpu", "offline": True}
    values["world"]["kind"] = "external"
    values["data"] |= {name: str(data / name) for name in ("aurora", "epic", "clips", "doundo")}
    values["fdm"] |= {"base": str(anole), "arms": ["supervised"], "first_chain_arms": []}
    values["doundo"] |= {"base": str(bagel), "variants": ["doundo"]}
    usual = {"steps": 1, "size": "source"}
    editors = [{"name": name, "model": str(pipelines[kind]), **usual} for name, kind in EDITORS.items()]
    editors[1]["call"] = SMALL_KONTEXT
    shared = {"editors": [*editors, {"name": "away", "model": "nobody/has-this"}], "gallery": 2}
    values["evaluation"] |= shared | {
        "trained": ["zero_shot", "tokenizer_ceiling", "fdm"],
        "imported": [{"name": "SmartEdit", "folder": str(root / "SmartEdit")}, {"name": "GoT", "folder": "GoT"}],
        "encoders": {"preset": "bootstrapping", **encoders}, "items_per_subset": ITEMS,
        "keep_images": ["SmartEdit", "FLUX Kontext"], "reference": "FLUX Kontext",
    }  # fmt: skip
    values["evaluation_doundo"] |= shared | {
        "encoders": {"preset": "doundo", **encoders}, "flow": {"backend": FLOW, "size": 64, "weights": ""},
        "annotations": str(data / "doundo/annotations_test.json"), "prompts": ["long"], "pairs": ITEMS,
        "flow_steps": 2, "keep_images": ["FLUX Kontext"], "reference": "base",
        "classifier": str(save_classifier(root / "classifier.pth")),
    }  # fmt: skip
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    return root


def run(profile):
    """Execute both notebooks with papermill as a user would."""
    import papermill

    for name in ("08_evaluation", "08d_doundo_evaluation"):
        papermill.execute_notebook(
            str(ROOT / f"notebooks/{name}.ipynb"), str(profile / f"{name}.ipynb"), {"profile": str(profile)},
            cwd=str(ROOT), progress_bar=False, kernel_name="python3", start_timeout=300,
        )  # fmt: skip


def written(profile):
    """Return the bytes of both stages' results, by stage and file name."""
    results = profile / "reports/results"
    return {f"{stage}/{path.name}": path.read_bytes()
            for stage in ("evaluation", "evaluation_doundo") for path in (results / stage).iterdir()}  # fmt: skip


@pytest.mark.slow  # one kernel, four pipelines, an endpoint and all metrics, and all of it once more: a minute
def test_every_system_is_scored_by_parameters_alone(profile, serve, monkeypatch, tmp_path):
    judge, edits = (
        serve(lambda text, nth, repeat: rehearsal.judged(text)),
        EditServer(lambda name, nth, image: inverted(image)),
    )
    startup = tmp_path / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "00-small.py").write_text(SMALL_AREAS + SMALL_PIX2PIX)
    for name, value in (("IPYTHONDIR", str(tmp_path / "ipython")), ("HF_HUB_OFFLINE", "1"), ("EDIT_KEY", KEY)):
        monkeypatch.setenv(name, value)
    values = yaml.safe_load((profile / "params.yaml").read_text())
    for section in ("evaluation", "evaluation_doundo"):
        values[section] |= {
            "judges": [{"kind": "region"}, {"kind": "endpoint", "name": "tester", "model": "judge-1",
                                            "base_url": judge.url, "key_variable": "JUDGE_KEY", "repeats": 2,
                                            "price_in": 1.0, "systems": ["FLUX Kontext", "SmartEdit"]}],
            "api_editors": [{"name": "Gemini", "model": "image-1", "base_url": edits.url, "key_variable": "EDIT_KEY"}],
        }  # fmt: skip
    (profile / "params.yaml").write_text(yaml.safe_dump(values))
    run(profile)
    asked, edited = Counter(judge.seen), Counter(edits.seen)
    first = written(profile)
    tables = {}
    for name in sorted({name.partition("/")[2] for name in first} - {"quarantine.csv"}):
        parts = [pd.read_csv(profile / "reports/results" / path, dtype={"id": str})
                 for path in sorted(first) if path.endswith(f"/{name}")]  # fmt: skip
        tables[name] = pd.concat(parts, ignore_index=True)

    subsets = tables["fdm_scores.csv"]["subset"].nunique()
    items, images = ITEMS * subsets, ITEMS * 3
    found = tables["systems.csv"].set_index(["paper", "system"])
    for name in [*EDITORS, "Gemini", "zero_shot", "tokenizer_ceiling", "copy", "oracle"]:
        assert found.loc[("B", name), ["expected", "found"]].tolist() == [items, items], name
    for name in [*EDITORS, "Gemini", "base", "copy", "oracle", "shuffled"]:
        assert found.loc[("D", name), ["expected", "found"]].tolist() == [images, images], name
    assert set(found.loc["B"].loc[list(EDITORS), "origin"]) == {"diffusers"}
    assert found.loc[("B", "SmartEdit"), ["found", "missing", "origin"]].tolist() == [items - 1, 1, "imported"]
    assert found.loc[("B", "GoT"), "found"] == 0
    for key, reason in ((("B", "GoT"), "is no folder"), (("B", "away"), "nobody/has-this"),
                        (("B", "supervised"), "run stage fdm"), (("D", "doundo"), "run stage doundo")):  # fmt: skip
        assert "not run" in found.loc[key, "note"], key
        assert reason in found.loc[key, "note"], key

    b = tables["fdm_scores.csv"].groupby(["system", "metric"])["value"].agg(["size", "count"])
    for name in [*EDITORS, "Gemini", "zero_shot"]:
        assert b.loc[(name, "l1_matched")].tolist() == b.loc[(name, "dino")].tolist() == [items, items]
        assert b.loc[(name, "score")].tolist() == [items, items]
        assert b.loc[(name, "success")].tolist() == [items, 0]  # nobody knows the end states
    assert b.loc[("SmartEdit", "l1_matched"), "size"] == items - 1
    d = tables["doundo_scores.csv"].groupby(["system", "direction", "metric"])["value"].count()
    for name in [*EDITORS, "base"]:
        assert d[name, "forward", "epe_f"] == d[name, "forward", "clip_prompt"] == ITEMS
        assert d[name, "reverse", "epe_r"] == 2 * ITEMS
        assert d[name, "forward", "action_accuracy"] == d[name, "forward", "noun_accuracy"] == ITEMS
        assert d[name, "reverse", "action_accuracy"] == 2 * ITEMS
    measures = tables["measures.csv"].set_index(["paper", "metric"])
    assert measures.loc[("B", "clip_t"), ["status", "n"]].tolist() == ["not measured", 0]
    assert "of 2 long prompts are cut" in measures.loc[("D", "clip_prompt"), "note"]
    assert measures.loc[("B", "success"), "note"] == "needs the known end states of the kitchen"
    assert measures.loc[("B", "dino"), ["status", "note"]].tolist() == [
        "interpretation", "not the checkpoint of the bootstrapping preset"
    ]  # fmt: skip
    assert measures.loc[("D", "epe_f"), "status"] == "interpretation"  # not the authors' flow
    assert measures.loc[("D", "action_accuracy"), ["measured_with", "status", "note"]].tolist() == [
        "classifier.pth", "interpretation", "not the authors' checkpoint"
    ]  # fmt: skip

    runs = tables["judge_runs.csv"].set_index(["paper", "system"])
    assert runs["asked"].to_dict() == {("B", "FLUX Kontext"): 2 * items, ("B", "SmartEdit"): 2 * (items - 1),
                                       ("D", "FLUX Kontext"): 2 * images}  # fmt: skip
    assert (runs[["invalid", "failed", "reused"]] == 0).all(axis=None)
    scores = tables["judge_scores.csv"].groupby(["paper", "criterion"])["value"].mean()
    assert scores["B"].to_dict() == {"editing_success": 7, "minimal_editing": 9, "score": 7}
    assert scores["D"]["object_consistency"] == 8
    board = tables["leaderboard.csv"]
    others = {"Gemini", "SmartEdit", "zero_shot", "tokenizer_ceiling", *BASELINES}
    assert set(board.loc[board["metric"] == "l1_paper", "system"]) == {*EDITORS, *others}
    kept = [path.relative_to(profile / "data/generated/outputs").as_posix()
            for path in (profile / "data/generated/outputs").rglob("*.png")]  # fmt: skip
    assert len([name for name in kept if name.startswith("aurora/FLUX_Kontext/")]) == items
    assert len([name for name in kept if name.startswith("aurora/SmartEdit/")]) == items - 1
    assert len([name for name in kept if name.startswith("doundo/FLUX_Kontext/long/")]) == images

    run(profile)  # makes no image and asks nobody again
    assert edits.seen == edited
    assert judge.seen == asked
    again = written(profile)
    assert {name for name in first if first[name] != again[name]} == {
        "evaluation/judge_runs.csv", "evaluation_doundo/judge_runs.csv"
    }  # replies were reused  # fmt: skip
    files = [path for path in profile.rglob("*") if path.suffix in (".csv", ".jsonl", ".ipynb")]
    everything = b"".join(path.read_bytes() for path in files)
    assert KEY.encode() not in everything
