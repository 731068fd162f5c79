"""The kitchen's laws: actions and their inverses, scenes and splits, images, clips and texts."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.kitchen import prompts, text
from visdyn.kitchen.motion import film_actions
from visdyn.kitchen.render import ImageSettings, photograph, render, render_state
from visdyn.kitchen.scene import SPLITS, Scene, fingerprint, kinds_cycle, make_scene, random_state, random_transition
from visdyn.kitchen.sheet import contact_sheet
from visdyn.kitchen.state import KINDS, NOUNS, Action, KitchenError, State, apply, inverse, valid_actions

seeds = st.integers(0, 2**31 - 1)
kinds = st.sampled_from(KINDS)


def draw(seed: int, kind: str | None = None):
    rng = np.random.default_rng(seed)
    return random_transition(rng, make_scene(seed, "train", seed % 1000), kind), rng


def cells(image: np.ndarray) -> np.ndarray:
    """Mean of |x| over each 8 x 8 token cell: (8, 8)."""
    return np.abs(image).reshape(8, 8, 8, 8, 3).mean((1, 3, 4))


@given(seeds)
@settings(max_examples=60, deadline=None)
def test_every_valid_action_is_undone_by_its_inverse(seed):
    transition, _ = draw(seed)
    state = transition.start
    actions = valid_actions(state)
    assert len(set(actions)) == len(actions)
    for action in actions:
        after = apply(state, action)
        assert after != state
        assert inverse(inverse(action)) == action
        assert apply(after, inverse(action)) == state


@given(seeds, kinds)
@settings(max_examples=40, deadline=None)
def test_objects_are_neither_lost_nor_doubled(seed, kind):
    transition, _ = draw(seed, kind)
    assert transition.action.kind == kind
    for state in (transition.start, transition.end):
        present = [*itertools.chain(*state.columns), state.basket, state.held]
        assert sorted(filter(None, present)) == sorted(transition.scene.objects)
        assert not state.columns[state.basket_column]
        assert max(map(len, state.columns)) <= 2


def test_an_action_that_does_not_apply_is_refused_with_what_does():
    transition, _ = draw(1, "open")
    with pytest.raises(KitchenError, match=r"does not apply.*close"):
        apply(transition.end, transition.action)
    with pytest.raises(KitchenError, match="unknown verb 'fry'"):
        random_transition(np.random.default_rng(0), transition.scene, "fry")


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_json_round_trip(seed):
    transition, _ = draw(seed)
    scene, start, action = transition.scene, transition.start, transition.action
    assert State.from_json(json.loads(json.dumps(start.to_json()))) == start
    assert Scene.from_json(json.loads(json.dumps(scene.to_json()))) == scene
    assert Action.from_json(json.loads(json.dumps(action.to_json()))) == action


def test_splits_share_no_layout_and_no_picture():
    layouts, prints = {}, {}
    for split in SPLITS:
        scenes = [make_scene(7, split, index) for index in range(150)]
        layouts[split] = {scene.layout for scene in scenes}
        prints[split] = {fingerprint(s, random_state(np.random.default_rng(0), s)) for s in scenes}
        assert len(prints[split]) > 145  # a kitchen may come twice in a split, never in two
    for a, b in itertools.combinations(SPLITS, 2):
        assert not layouts[a] & layouts[b]
        assert not prints[a] & prints[b]


def test_scene_is_a_function_of_seed_split_and_index():
    assert make_scene(3, "test", 5) == make_scene(3, "test", 5)
    assert make_scene(3, "test", 5) != make_scene(4, "test", 5)
    with pytest.raises(KitchenError, match="unknown split"):
        make_scene(3, "holdout", 5)


def test_kinds_are_drawn_in_balance():
    rng = np.random.default_rng(0)
    drawn = list(itertools.islice(kinds_cycle(rng), 36))
    assert all(drawn.count(kind) == 3 for kind in KINDS)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_render_is_deterministic_by_seed(seed):
    transition, _ = draw(seed)
    first, second, other = (
        render(transition.start, transition.scene, np.random.default_rng(s)) for s in (seed, seed, seed + 1)
    )
    assert first.shape == (64, 64, 3)
    assert first.dtype == np.uint8
    assert (first == second).all()
    assert (first != other).any()


@given(seeds)
@settings(max_examples=25, deadline=None)
def test_different_states_look_different(seed):
    """Some token cell differs by more than the sensor noise could, for every action and any two states."""
    transition, rng = draw(seed)
    state, scene = transition.start, transition.scene
    others = [apply(state, action) for action in valid_actions(state)] + [random_state(rng, scene) for _ in range(5)]
    images = {s: render(s, scene).astype(int) for s in {state, *others}}
    for a, b in itertools.combinations(images, 2):
        assert cells(images[a] - images[b]).max() > 6, (a, b)


@given(seeds, kinds)
@settings(max_examples=40, deadline=None)
def test_an_action_changes_few_token_cells(seed, kind):
    """What an action changes lies on the grid of 8-pixel tokens: two to seven cells, each of which changes clearly."""
    transition, _ = draw(seed, kind)
    before, after = (render(s, transition.scene).astype(int) for s in (transition.start, transition.end))
    change = cells(before - after)
    assert 2 <= (change > 0).sum() <= 7
    assert change[change > 0].min() > 1.5


def test_camera_shift_and_noise_are_as_small_as_asked():
    transition, rng = draw(11)
    clean = render(transition.start, transition.scene)
    noisy = photograph(clean, rng, 0.0, 2.5).astype(float) - clean
    assert 2.0 < noisy.std() < 2.8
    assert abs(noisy.mean()) < 0.2
    ramp = np.repeat(np.arange(0, 256, 4, dtype=np.uint8)[None, :, None], 64, 0).repeat(3, 2)
    shifted = photograph(ramp, rng, 1.0, 0.0).astype(float)
    assert np.abs(shifted - ramp)[:, 1:-1].max() <= 2.5  # half a pixel of a slope of four, rounded
    assert (photograph(clean, None, 0.1, 2.5) == clean).all()


def test_states_from_truth_render_as_states():
    transition, _ = draw(2)
    image = render_state(transition.end.to_json(), transition.scene.to_json())
    assert (image == render(transition.end, transition.scene)).all()


@pytest.mark.parametrize("size", [32, 48, 128])
def test_other_sizes_show_the_same_picture(size):
    transition, _ = draw(2)
    image = render(transition.start, transition.scene, None, size=size)
    assert image.shape == (size, size, 3)
    assert abs(image.mean() - render(transition.start, transition.scene).mean()) < 1
    with pytest.raises(ValueError, match="image size 60"):
        ImageSettings(size=60)


@pytest.mark.parametrize("kind", KINDS)
def test_clip_rests_moves_and_rests(kind):
    transition, rng = draw(5, kind)
    clip = film_actions(transition.start, transition.scene, [transition.action], rng, ImageSettings(jitter=0, noise=0))
    assert clip.states == (transition.start, transition.end)
    assert clip.settled[-1].last == len(clip.frames) - 1
    for span in clip.settled:
        assert span.last - span.first + 1 >= 5
        wanted = render(clip.states[span.index], transition.scene)
        assert (clip.frames[span.first : span.last + 1] == wanted).all()
    motion = clip.motion[0]
    frames = clip.frames[motion.first : motion.last + 1].astype(int)
    assert len(frames) == 16
    middle = frames[6:10]
    for end in (clip.frames[0].astype(int), clip.frames[-1].astype(int)):
        assert all((cells(frame - end) > 10).sum() >= 2 for frame in middle)  # the hand and what it moves


def test_clip_of_three_actions_knows_its_frames():
    transition, rng = draw(9, "open")
    actions = [transition.action, inverse(transition.action), transition.action]
    clip = film_actions(transition.start, transition.scene, actions, rng)
    ranges = sorted([*clip.settled, *clip.motion], key=lambda span: span.first)
    assert [span.first for span in ranges][1:] == [span.last + 1 for span in ranges][:-1]
    assert ranges[0].first == 0
    assert ranges[-1].last == len(clip.frames) - 1
    assert clip.states[0] == clip.states[2] != clip.states[1] == clip.states[3]


def test_canonical_texts_name_actions_one_to_one():
    actions = text.all_actions()
    assert len({text.canonical(action) for action in actions}) == len(actions)
    assert {action.noun for action in actions} == set(NOUNS)
    assert all(text.parse_action(text.canonical(action)) == action for action in actions)
    assert text.parse_action("Turn  on lamp") == Action("turn-on", "lamp")
    with pytest.raises(KitchenError, match="names no kitchen action"):
        text.parse_action("fry egg")


@given(seeds)
@settings(max_examples=50, deadline=None)
def test_captions_are_true_short_and_of_few_words(seed):
    transition, rng = draw(seed)
    state = transition.start
    for sentence in (text.caption(state, rng), text.caption_of_hand(state, transition.action, rng)):
        words = sentence.split()
        assert 3 <= len(words) <= text.MAX_CAPTION_WORDS
        assert set(words) <= set(text.vocabulary())
        for part in sentence.split(" . "):
            possible = {"can " + text.canonical(action) for action in valid_actions(state)}
            assert part in {*text.list_facts(state), *possible, f"hand at {transition.action.noun}"}
    assert len(text.vocabulary()) <= 50


@given(seeds, kinds)
@settings(max_examples=60, deadline=None)
def test_long_prompts_name_the_object_within_30_to_60_words(seed, kind):
    transition, rng = draw(seed, kind)
    forward = prompts.long_prompt(transition.start, transition.action, rng)
    reverse = prompts.long_prompt(transition.end, inverse(transition.action), rng)
    assert forward != reverse
    for prompt in (forward, reverse):
        assert 30 <= len(prompt.split()) <= 60
        assert transition.action.noun in prompt
        assert "{" not in prompt


def test_contact_sheet_shows_twelve_actions():
    sheet = contact_sheet(0, zoom=2, columns=3)
    assert sheet.dtype == np.uint8
    assert sheet.shape == (4 * (128 + 26 + 4), 3 * (3 * 132 + 8), 3)
    assert (sheet == contact_sheet(0, zoom=2, columns=3)).all()
