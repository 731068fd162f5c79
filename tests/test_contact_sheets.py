"""Contact sheets: every picture of a notebook can be drawn from tiny models, and uses no generator but its own."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_bagel import pairs, save_annotations

from visdyn.datasets.annotated import write_annotated
from visdyn.inference.probing import probe
from visdyn.pipeline.dependencies import imported_files
from visdyn.stages import contact_sheets as sheets

ACTIONS = ["open the cup", "close the red cup", "take lamp", "open the lamp", "put the cup on"]


@pytest.fixture
def stage(tmp_path, scenes, tiny_folder):
    """A stage over five test items of 16 x 16 pixels and the tiny model in every role."""
    root = tmp_path / "aurora"
    root.mkdir()
    items = []
    for row, action in enumerate(ACTIONS):
        for end, place in (("input", row), ("output", row + 5)):
            Image.fromarray(scenes[place]).save(root / f"{row}-{end}.png")
        items.append({"instruction": action, "input": f"{row}-input.png", "output": f"{row}-output.png", "task": "ag"})
    (root / "test.json").write_text(json.dumps(items))
    (tmp_path / "models/fdm").mkdir(parents=True)
    for name in ("base", "idm", "fdm/supervised-s0", "fdm/supervised-s1"):
        (tmp_path / "models" / name).symlink_to(tiny_folder)
    params = SimpleNamespace(base="models/base", arms=("supervised",), candidates=(1, 2), variants=("doundo",))
    return SimpleNamespace(
        path=lambda rel: tmp_path / rel, reference=lambda rel, chain=0: str(tmp_path / rel),
        chains=(0, 1),
        data=lambda name: tmp_path / name, device="cpu", seed=0, params=params, kitchen=tmp_path,
    )  # fmt: skip


def test_a_sheet_has_a_cell_for_each_image_and_leaves_the_images_as_they_are(scenes):
    large = Image.fromarray(np.zeros((600, 300, 3), np.uint8))
    small = sheets.contact_sheet({"source": list(scenes[:1])}, ["one"])
    sheet = sheets.contact_sheet(
        {"source": list(scenes[:2]), "made": [None, large]}, ["one", "two"], {"made": ["", "-0.3"]}
    )
    assert sheet.format == "PNG"
    assert sheet.width > small.width
    assert sheet.height > small.height
    assert large.size == (300, 600)


@pytest.mark.parametrize("columns", [{}, {"source": []}, {"source": [np.zeros((4, 4, 3), np.uint8)] * 2}])
def test_a_sheet_that_does_not_fit_its_captions_is_refused(columns):
    with pytest.raises(ValueError, match="as many images in each column"):
        sheets.contact_sheet(columns, ["one"])


def test_items_are_spread_over_their_order():
    assert sheets.spread(list(range(10)), 4) == [0, 3, 6, 9]
    assert sheets.spread([1, 2], 4) == [1, 2]
    assert sheets.spread([], 4) == []


def test_token_models_show_what_they_make_and_leave_the_global_generator_alone(stage):
    before = torch.get_rng_state()
    shown = [sheets.decoded_images(stage), sheets.next_images(stage), sheets.verified_candidates(stage)]
    assert all(picture.width > 100 for picture in shown)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_first_chain_s_run_of_each_arm_has_one_column(stage, monkeypatch):
    drawn = {}
    monkeypatch.setattr(sheets, "contact_sheet", lambda columns, captions: drawn.update(columns))
    sheets.next_images(stage, count=2)
    assert list(drawn) == ["source", "target", "zero-shot", "supervised"]
    assert np.shape(drawn["supervised"]) == (2, 16, 16, 3)


def test_the_item_that_a_model_is_most_wrong_about_is_shown_last(stage, tiny, monkeypatch):
    items = sheets.load_bench(stage.data("aurora"))
    likelihoods = probe(tiny, items, seed=0, name="tiny", draws=2)
    drawn = []
    monkeypatch.setattr(sheets, "contact_sheet", lambda columns, captions: drawn.extend(captions))
    sheets.preferred_negatives(items, likelihoods, 0)
    references = [caption for caption in drawn if caption.startswith("reference")]
    assert len(drawn) == 10
    values = [[float(text.rsplit("(", 1)[1].split()[0]) for text in part] for part in (drawn[:5], drawn[5:])]
    best, worst = (part[0] - max(part[1:]) for part in values)
    assert best > worst
    assert len(references) == 2


def test_right_and_wrong_predictions_are_both_shown(stage, monkeypatch):
    said = ["open the cup", "wrong", "take lamp", "wrong", "wrong"]
    idm = SimpleNamespace(predict=lambda sources, targets: said)
    monkeypatch.setattr(sheets, "load_model", lambda *arguments, **options: idm)
    drawn = []
    monkeypatch.setattr(sheets, "contact_sheet", lambda columns, captions: drawn.extend(captions))
    sheets.predicted_actions(stage, count=2)
    assert drawn[:2] == [f"true: {action}; predicted: {action}" for action in ("open the cup", "take lamp")]
    assert drawn[2:] == ["true: close the red cup; predicted: wrong", "true: put the cup on; predicted: wrong"]


def test_wrong_labels_are_marked(stage, monkeypatch):
    images = {
        end: str(stage.data("aurora") / f"0-{name}.png") for end, name in (("source", "input"), ("target", "output"))
    }
    texts = [("open", "open"), ("open", "close"), ("open", "")]
    write_annotated([{**images, "action": a, "true_action": b} for a, b in texts], stage.path("data/annotated/s0"))
    drawn = []
    monkeypatch.setattr(sheets, "contact_sheet", lambda columns, captions: drawn.extend(captions))
    sheets.labelled_pairs(stage)
    assert drawn == ["open", "open (true: close)", "open"]


def test_a_generator_shows_what_it_does_and_undoes(stage, monkeypatch):
    class Editor:
        def edit(self, sources, prompts, seeds, steps=None, guidance=None):
            return [np.full((8, 8, 3), len(prompt), np.uint8) for prompt in prompts]

    folder = stage.path("data/mined")
    folder.mkdir(parents=True)
    save_annotations(folder / "doundo_test.json", pairs())
    monkeypatch.setattr(sheets, "load_editor", lambda path, device: Editor())
    assert sheets.done_and_undone(stage).width > 100


def test_a_gallery_of_the_evaluation_is_shown_where_there_is_one(stage, scenes):
    stage.name = "evaluation"
    assert sheets.evaluated_examples(stage, "fdm_examples") is None
    folder = stage.path("data/generated/evaluation")
    folder.mkdir(parents=True)
    captions, weights = np.array(["one", "two"]), np.zeros((2, 4, 4))
    arrays = {"source": scenes[:2], "zero_shot": scenes[2:4], "captions": captions, "weights": weights}
    np.savez(folder / "fdm_examples.npz", **arrays)
    assert sheets.evaluated_examples(stage, "fdm_examples").width > 100


def test_pictures_are_no_dependency_of_a_stage(tmp_path):
    import nbformat

    from visdyn.paths import repository_root

    book = nbformat.v4.new_notebook()
    book.cells = [
        nbformat.v4.new_code_cell("from visdyn.stages.contact_sheets import next_images\nimport visdyn.images")
    ]
    nbformat.write(book, tmp_path / "x.ipynb")
    assert imported_files(tmp_path / "x.ipynb", repository_root() / "src") == {"visdyn/images.py"}
