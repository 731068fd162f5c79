"""The explorer on toy models: its answers are those of the kit's own functions, and its code makes the same again."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from toy_profile import FDMS, PER_SUBSET, make_profile

from visdyn.compute.seeds import sampling_seed
from visdyn.explorer import asks, open_profile, snippets
from visdyn.explorer.browse import Filter, find_items, verb_of
from visdyn.explorer.opened import OWN, Shelf, own_item
from visdyn.images import load
from visdyn.inference.generation import generate
from visdyn.inference.rollout import roll_out
from visdyn.inference.verification import score_candidates
from visdyn.models import load_model
from visdyn.training.losses import recognition_weights

ARM = "synthetic_weighted"


@pytest.fixture(scope="module", autouse=True)
def negative_editor():
    """The toy editor is one of the kit's while these tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(__import__("visdyn.models.editors", fromlist=["EDITORS"]).EDITORS, "negative",
                      "toy_profile:NegativeEditor")  # fmt: skip
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_profile(tmp_path_factory.mktemp("explorer") / "profile")


@pytest.fixture(scope="module")
def opened(root):
    return open_profile(str(root))


@pytest.fixture
def item(opened):
    return opened.items[4]


def fdm(opened, name=ARM):
    return load_model(opened.place.path(f"models/fdm/{name}-s0"), "fdp")


def test_a_profile_has_its_arms_under_the_papers_names(opened):
    assert {name: (arm.label, arm.kind) for name, arm in opened.arms.items()} == {
        "zero_shot": ("C-ZS", "tokens"), "supervised": ("C-FT", "tokens"), ARM: ("C-FDM", "tokens"),
        "doundo": ("Do-Undo", "editor"),
    }  # fmt: skip
    assert len(opened.items) == 5 * PER_SUBSET
    assert opened.note == ""
    with pytest.raises(KeyError, match="no test item ag/99"):
        opened.item("ag", "99")


def test_a_model_of_ones_own_stands_beside_the_others(root, opened, item):
    own = open_profile(str(root), models={"mine": str(root / "models/fdm/supervised-s0")})
    assert next(iter(own.arms)) == "mine"
    drawn = asks.draw_arms(own, ["mine", "supervised"], item, item.action)
    assert np.array_equal(drawn["mine"].image, drawn["supervised"].image)


def test_items_are_filtered_and_ordered(opened):
    one = find_items(opened, Filter(subset="ag", verb="open"))
    assert set(one["subset"]) == {"ag"}
    assert set(one["verb"]) == {"open"}
    assert len(find_items(opened, Filter())) == len(opened.items)
    worst = find_items(opened, Filter(system="supervised", order="worst"))
    assert worst["id"].astype(int).tolist() == list(reversed(range(len(opened.items))))
    assert find_items(opened, Filter(system="supervised", order="best"))["id"].iloc[0] == "0"
    # Of a distance the largest is the worst.
    assert find_items(opened, Filter(system="supervised", metric="l1_paper", order="best"))["id"].iloc[0] == "0"
    bounded = find_items(opened, Filter(system="supervised", low=9, high=9.5))
    assert bounded["id"].tolist() == ["1", "2"]


def test_an_unknown_score_is_neither_worst_nor_within_bounds_and_ties_keep_their_order(opened):
    ties = find_items(opened, Filter(system=ARM, order="worst"))
    assert "1" not in set(ties["id"])
    assert ties["id"].astype(int).is_monotonic_increasing
    assert "1" not in set(find_items(opened, Filter(system=ARM, low=0))["id"])
    assert "1" in set(find_items(opened, Filter(system=ARM))["id"])


def test_what_systems_disagree_on_comes_first_and_one_score_is_no_disagreement(opened):
    table = find_items(opened, Filter(order="disagreeing"))
    assert table["spread"].is_monotonic_decreasing
    assert table["spread"].iloc[0] == 5.0
    assert "1" not in set(table["id"])


@pytest.mark.parametrize(
    ("action", "verb"),
    [("pick up red cup", "pick up"), ("turn off lamp", "turn off"), ("open drawer", "open"), ("Stack it", "stack")],
)
def test_a_verb_keeps_its_particle(action, verb):
    assert verb_of(action) == verb


def test_arms_are_drawn_with_the_noise_of_the_tables(opened, item):
    drawn = asks.draw_arms(opened, ["supervised", ARM, "doundo"], item, item.action)
    seed = sampling_seed(opened.stage.seed, "images", 0)
    for name in ("supervised", ARM):
        images, _ = generate(fdm(opened, name), [item], 1, seed)
        assert np.array_equal(drawn[name].image, images[0, 0])
    again = asks.draw_arms(opened, [ARM], item, item.action, seed=1)
    assert not np.array_equal(again[ARM].image, drawn[ARM].image)
    assert drawn["doundo"].image.shape == np.asarray(load(item.source)).shape
    assert 0 <= drawn["doundo"].judgement.score <= 10


def test_the_true_image_of_another_valid_action_is_known_and_of_a_wish_not(opened, item):
    assert asks.true_image(opened, item, item.action) == item.target
    reachable = opened.reachable(item)
    other = next(text for text in reachable if text != item.action)
    assert np.array_equal(asks.true_image(opened, item, other), reachable[other])
    assert asks.draw_arms(opened, [ARM], item, other)[ARM].judgement is not None
    assert asks.draw_arms(opened, [ARM], item, "take the red drawer")[ARM].judgement is None


@pytest.mark.parametrize("sort", ["idm", "likelihood", "judge"])
def test_candidates_are_those_of_the_verification_in_the_order_asked_for(opened, item, sort):
    ranked = asks.draw_candidates(opened, ARM, item, item.action, 4, sort=sort)
    idm = load_model(opened.place.path("models/idm/s0"), "idp")
    seed = sampling_seed(opened.stage.seed, "candidates", 0)
    scored = score_candidates(fdm(opened), idm, [item], 4, seed)
    table = ranked.table
    assert table[sort].is_monotonic_decreasing
    for one in table.itertuples():
        assert np.array_equal(ranked.images[one.candidate], scored.images[0, one.candidate])
        assert one.idm == scored.inverse[0, one.candidate]
        assert one.likelihood == scored.forward[0, one.candidate]
    assert table[table["picked"]]["candidate"].tolist() == [int(scored.inverse[0].argmax())]


def test_candidates_of_an_editor_are_refused_in_a_sentence(opened, item):
    with pytest.raises(ValueError, match="Do-Undo is an image editor"):
        asks.draw_candidates(opened, "doundo", item, item.action, 2)
    with pytest.raises(ValueError, match="k must be at least 1"):
        asks.draw_candidates(opened, ARM, item, item.action, 0)


def test_token_maps_are_the_kit_s_own_numbers(opened, item):
    model = fdm(opened)
    said = asks.map_tokens(opened, "likelihood", ARM, item, item.action, item.target).values
    expected = model.log_likelihood([item.source], [item.action], [item.target])
    assert said.mean() == pytest.approx(float(expected[0]), abs=1e-5)
    changed = asks.map_tokens(opened, "changed", ARM, item, item.action, item.target)
    codes = model.model.encode([item.source, item.target])
    assert np.array_equal(changed.values, codes[0] != codes[1])
    before, after = (model.model.vqgan.features(model.model.pixels([one])) for one in (item.source, item.target))
    weights = asks.map_tokens(opened, "weight", ARM, item, item.action, item.target, floor=0.25).values
    assert torch.allclose(torch.from_numpy(weights).flatten(), recognition_weights(before, after, 0.25)[0])


def test_a_difference_is_between_two_arms_or_two_actions(opened, item):
    arguments = item, item.action, item.target
    one = asks.map_tokens(opened, "difference", ARM, *arguments, "supervised").values
    other = asks.map_tokens(opened, "difference", "supervised", *arguments, ARM).values
    assert np.allclose(one, -other)
    assert np.abs(one).max() > 0
    words = asks.map_tokens(opened, "difference", ARM, *arguments, "open red drawer")
    assert words.diverging
    assert np.abs(words.values).max() > 0
    with pytest.raises(ValueError, match="is an image editor"):
        asks.map_tokens(opened, "changed", "doundo", *arguments)
    with pytest.raises(ValueError, match="name the other arm"):
        asks.map_tokens(opened, "difference", ARM, *arguments, "")


def test_the_idm_s_confidence_is_the_probability_of_all_tokens(opened, item):
    belief = asks.ask_inverse(opened, item, item.target)
    idm = load_model(opened.place.path("models/idm/s0"), "idp")
    assert belief.predicted == idm.predict([item.source], [item.target])[0]
    row = belief.ranking[belief.ranking["action"] == item.action].iloc[0]
    score = idm.score([item.source], [item.target], [item.action])
    assert row["probability"] == pytest.approx(float(score.total.exp()), rel=1e-4)
    assert row["log_likelihood"] == pytest.approx(float(score.mean), rel=1e-4)
    assert belief.ranking["probability"].is_monotonic_decreasing
    assert belief.ranking["share"].sum() == pytest.approx(1)
    assert any("not sure" in text for text in belief.warnings)  # random weights


def test_an_image_that_no_test_image_is_like_is_warned_of(opened, item, monkeypatch):
    """How far an image is from its tokens decides; here it is how bright it is, which is known."""
    monkeypatch.setattr(asks, "tokenizer_error", lambda model, image: float(np.asarray(load(image)).mean()))
    opened.shelf._kept.clear()
    white = np.full((64, 64, 3), 255, np.uint8)
    belief = asks.ask_inverse(opened, item, white)
    assert sum("outside this model's world" in text for text in belief.warnings) == 1
    assert "the image after is outside" in belief.warnings[0]
    assert not any("outside" in text for text in asks.ask_inverse(opened, item, item.source).warnings)
    opened.shelf._kept.clear()


def test_a_walk_is_a_roll_out_and_can_be_taken_back(opened, item):
    walk = asks.Walk(opened, item.source, seed=5)
    walk.do("open red drawer", ARM)
    walk.undo(ARM)
    assert [action for action, _, _ in walk.steps] == ["open red drawer", "close red drawer"]
    images = roll_out(fdm(opened), [item.source], [["open red drawer", "close red drawer"]], seed=5)[0]
    for (_, _, image), expected in zip(walk.steps, images, strict=True):
        assert np.array_equal(image, expected)
    walk.back()
    assert np.array_equal(walk.image, images[0])
    walk.again()
    assert np.array_equal(walk.image, images[1])
    walk.back()
    walk.do("turn on lamp", "doundo")
    walk.again()  # what was taken back is forgotten
    assert [name for _, name, _ in walk.steps] == [ARM, "doundo"]


def test_what_cannot_be_undone_is_said(opened, item):
    walk = asks.Walk(opened, item.source)
    with pytest.raises(ValueError, match="nothing was done yet"):
        walk.undo(ARM)
    walk.do("take the red cup", ARM)
    with pytest.raises(ValueError, match="what undoes 'take the red cup' is not known"):
        walk.undo(ARM)
    assert walk.undo(ARM, "put the red cup down") is not None


def run_code(text):
    names = {}
    exec(text, names)
    return names


def test_the_code_of_arms_and_candidates_makes_the_same_images(opened, item):
    action = "open red drawer"
    drawn = asks.draw_arms(opened, [*FDMS, "doundo"], item, action, seed=2)
    images = run_code(snippets.code_of_arms(opened, [*FDMS, "doundo"], item, action, seed=2))["images"]
    assert {name: np.array_equal(images[name], one.image) for name, one in drawn.items()} == dict.fromkeys(drawn, True)
    ranked = asks.draw_candidates(opened, ARM, item, action, 3)
    made = run_code(snippets.code_of_candidates(opened, ARM, item, action, 3))
    assert all(np.array_equal(made["scored"].images[0, k], ranked.images[k]) for k in range(3))
    assert ranked.table[ranked.table["picked"]]["candidate"].tolist() == [made["picked"]]


def test_the_code_of_maps_beliefs_and_walks_says_the_same(opened, item):
    for kind in asks.MAPS:
        expected = asks.map_tokens(opened, kind, ARM, item, item.action, item.target, "supervised", 0.25).values
        values = run_code(snippets.code_of_map(opened, kind, ARM, item, item.action, "supervised", 0.25))["values"]
        assert np.allclose(np.asarray(values.detach() if hasattr(values, "detach") else values), expected), kind
    belief, made = asks.ask_inverse(opened, item, item.target), run_code(snippets.code_of_belief(opened, item))
    assert made["predicted"] == belief.predicted
    said = dict(zip(made["actions"], made["likelihoods"].tolist(), strict=True))
    for one in belief.ranking.itertuples():
        assert said.get(one.action, one.log_likelihood) == pytest.approx(one.log_likelihood, abs=1e-4)
    walk = asks.Walk(opened, item.source, seed=5)
    walk.do("open red drawer", ARM)
    walk.do("close red drawer", ARM)
    assert "roll_out(" in snippets.code_of_walk(walk, item)
    walk.do("turn on lamp", "doundo")
    images = run_code(snippets.code_of_walk(walk, item))["images"]
    assert all(np.array_equal(image, step[2]) for image, step in zip(images, walk.steps, strict=True))


def test_an_image_of_ones_own_is_asked_like_any_other(opened, tmp_path):
    path = tmp_path / "mine.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)).save(path)
    item = own_item(path, "open red drawer")
    assert item.subset == OWN
    drawn = asks.draw_arms(opened, [ARM], item, item.action)
    assert drawn[ARM].judgement is None  # nobody knows what it should look like
    images = run_code(snippets.code_of_arms(opened, [ARM], item, item.action))["images"]
    assert np.array_equal(images[ARM], drawn[ARM].image)
    (tmp_path / "no.png").write_bytes(b"no image")
    with pytest.raises(Exception, match=r"no\.png"):
        own_item(tmp_path / "no.png", "open it")


def test_models_used_longest_ago_are_let_go():
    shelf, made = Shelf(room=10), []
    for name, size in (("a", 6), ("b", 4), ("a", 6), ("c", 4), ("b", 4), ("big", 50)):
        shelf.take(name, lambda name=name: made.append(name), size)
    assert made == ["a", "b", "c", "b", "big"]
    assert list(shelf._kept) == ["big"]


def test_without_models_and_without_a_pack_a_sentence_says_what_to_do(tmp_path):
    root = make_profile(tmp_path / "bare", models=False)
    with pytest.raises(FileNotFoundError, match="make repro"):
        open_profile(str(root))


def test_without_scores_items_are_still_there(root, tmp_path):
    bare = tmp_path / "unscored"
    shutil.copytree(root, bare, ignore=shutil.ignore_patterns("reports"))
    opened = open_profile(str(bare))
    assert find_items(opened, Filter(system=ARM, order="worst")).empty
    assert len(find_items(opened, Filter())) == len(opened.items)
    item = opened.items[0]
    assert asks.images_of(opened, ARM, [item])[item.subset, item.id].shape == (16, 16, 3)


def test_kept_images_are_shown_as_they_were_scored(opened, item):
    folder = opened.place.path(f"data/generated/outputs/aurora/{ARM}/{item.subset}")
    folder.mkdir(parents=True)
    kept = folder / f"{item.id}.png"
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(kept)
    other = replace(opened.items[0])
    found = asks.images_of(opened, ARM, [item, other])
    assert found[item.subset, item.id] == kept
    images, _ = generate(fdm(opened), [other], 1, sampling_seed(opened.stage.seed, "images", 0))
    assert np.array_equal(found[other.subset, other.id], images[0, 0])
