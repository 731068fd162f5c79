"""The reference-based judge: what Copy, the target and the images between them get."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.evaluation.metrics.region_judge import NoChangeError, changed_regions, judge, judge_batch, region_distance

SIZE = 32


def _pair(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A scene and the same scene with one rectangle changed."""
    generator = np.random.default_rng(seed)
    source = np.repeat(np.repeat(generator.integers(0, 256, (8, 8, 3), dtype=np.uint8), 4, 0), 4, 1)
    top, left = generator.integers(0, SIZE - 10, 2)
    height, width = generator.integers(5, 11, 2)
    target = source.copy()
    part = target[top : top + height, left : left + width]
    part[:] = np.where(part.mean() > 127, part // 4, 255 - (255 - part) // 4)
    return source, target


def _blend(source, target, share):
    return np.round(source * (1 - share) + target * share).astype(np.uint8)


def _fields(judgement):
    return tuple(vars(judgement).values())


seeds = st.integers(0, 10_000)


@settings(max_examples=40, deadline=None)
@given(seeds)
def test_copy_gets_nothing_and_the_target_everything(seed):
    source, target = _pair(seed)
    copied, oracle = judge(source, source, target), judge(source, target, target)
    assert (copied.editing_success, copied.minimal_editing, copied.score) == (0, 10, 0)
    assert (copied.success, copied.copied) == (False, True)
    assert (oracle.editing_success, oracle.minimal_editing, oracle.score) == (10, 10, 10)
    assert (oracle.success, oracle.copied) == (True, False)


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_success_grows_along_the_way_from_source_to_target(seed):
    source, target = _pair(seed)
    steps = [judge(source, _blend(source, target, share), target) for share in (0, 0.2, 0.4, 0.6, 0.8, 1)]
    values = [step.editing_success for step in steps]
    assert values == sorted(values)
    np.testing.assert_allclose(values, [0, 2, 4, 6, 8, 10], atol=0.3)
    assert [step.success for step in steps] == [False, False, False, True, True, True]
    assert [step.copied for step in steps] == [True, True, True, False, False, False]


@settings(max_examples=20, deadline=None)
@given(seeds, st.sampled_from([np.fliplr, np.flipud, np.rot90]))
def test_flips_change_nothing(seed, flip):
    source, target = _pair(seed)
    prediction = np.clip(_blend(source, target, 0.7) + np.random.default_rng(seed).normal(0, 9, source.shape), 0, 255)
    images = source, prediction.astype(np.uint8), target
    assert _fields(judge(*images)) == _fields(judge(*(np.ascontiguousarray(flip(image)) for image in images)))


@settings(max_examples=20, deadline=None)
@given(seeds, st.integers(1, 24))
def test_changes_outside_cost_minimal_editing_only(seed, shift):
    source, target = _pair(seed)
    outside = ~changed_regions(source[None], target[None])[0]
    prediction = target.copy()
    prediction[outside] = np.where(target[outside] > 127, target[outside] - shift, target[outside] + shift)
    found = judge(source, prediction, target)
    assert found.editing_success == 10
    assert found.minimal_editing == pytest.approx(10 * (1 - shift / 25.5))
    assert found.score == found.minimal_editing


def test_region_covers_the_change_and_ignores_noise_and_jitter():
    source, target = (np.full((64, 64, 3), 128, np.uint8) for _ in range(2))
    target[20:30, 40:50] = 255
    generator = np.random.default_rng(0)
    noisy = [
        np.clip(image + generator.normal(0, 2.5, image.shape), 0, 255).astype(np.uint8) for image in (source, target)
    ]
    region = changed_regions(noisy[0][None], noisy[1][None])[0]
    assert region[20:30, 40:50].all()
    assert not region[:17].any()
    assert not region[:, :37].any()
    assert region.sum() <= 14 * 14
    assert judge(noisy[0], noisy[1], noisy[1]).score > 8.5


def test_a_faint_change_is_still_judged():
    source = np.full((32, 32, 3), 100, np.uint8)
    target = source.copy()
    target[8:16, 8:16] += 4
    assert not changed_regions(source[None], target[None]).any()
    assert judge(source, source, target).score == 0
    assert judge(source, target, target).score == pytest.approx(10, abs=0.1)


def test_other_candidates_can_take_success_and_copying():
    source, target, other = (np.zeros((32, 32, 3), np.uint8) for _ in range(3))
    target[4:12, 4:12], other[20:28, 20:28] = 255, 255
    wrong = judge(source, other, target, [other])
    assert (wrong.success, wrong.copied) == (False, False)
    # Without the candidate, only the target's region counts, where nothing happened.
    assert judge(source, other, target).copied
    both = np.maximum(target, other)
    assert judge(source, both, target).success
    assert not judge(source, both, target, [other]).success
    right = judge(source, target, target, [other])
    assert (right.success, right.copied) == (True, False)


def test_candidates_equal_to_target_or_source_do_not_compete():
    source, target = _pair(3)
    faint = np.clip(target.astype(int) + 2, 0, 255).astype(np.uint8)
    for candidates in ([target], [source], [faint, source]):
        assert judge(source, target, target, candidates).success
        assert judge(source, source, target, candidates).copied


def test_blur_scores_between():
    import cv2

    source, target = _pair(11)
    assert 0 < judge(source, cv2.GaussianBlur(target, (0, 0), 1.0), target).score < 10


def test_kitchen_world_separates_target_copy_and_wrong_actions():
    from visdyn.kitchen.render import render
    from visdyn.kitchen.scene import make_scene, random_transition
    from visdyn.kitchen.state import KINDS, apply, valid_actions

    generator = np.random.default_rng(0)
    steps = [random_transition(generator, make_scene(0, "test", i), KINDS[i % 12]) for i in range(24)]
    sources = np.stack([render(step.start, step.scene, generator) for step in steps])
    targets, retaken = (np.stack([render(step.end, step.scene, generator) for step in steps]) for _ in range(2))
    others = [
        [render(apply(step.start, action), step.scene) for action in valid_actions(step.start) if action != step.action]
        for step in steps
    ]
    wrong = np.stack([images[0] for images in others])
    oracle, again, copied, mistaken, shuffled = (
        judge_batch(sources, predictions, targets, others)
        for predictions in (targets, retaken, sources, wrong, np.roll(targets, 1, axis=0))
    )
    assert oracle.score.min() > 8.5
    assert again.score.min() > 8.0
    assert oracle.success.all()
    assert again.success.all()
    assert copied.score.max() == 0
    assert copied.copied.all()
    assert not mistaken.success.any()
    assert not mistaken.copied.any()
    assert mistaken.score.mean() < 1.5
    assert shuffled.score.mean() < 1.5  # kitchens of one style look alike, so a stranger is not wholly wrong


def test_batch_equals_one_at_a_time():
    pairs = [_pair(seed) for seed in range(6)]
    sources, targets = (np.stack(images) for images in zip(*pairs, strict=True))
    predictions = np.stack([_blend(*pair, 0.3 + 0.1 * i) for i, pair in enumerate(pairs)])
    candidates = [[targets[i - 1]] for i in range(6)]
    batch = judge_batch(sources, predictions, targets, candidates)
    for i in range(6):
        single = judge(sources[i], predictions[i], targets[i], candidates[i])
        assert _fields(single) == tuple(values[i] for values in _fields(batch))
    assert isinstance(single.success, bool)
    assert isinstance(single.score, float)


def test_images_of_different_sizes_are_matched():
    source, target = _pair(5)
    large = np.repeat(np.repeat(target, 2, 0), 2, 1)
    assert judge(source, large, target).editing_success > 8


def test_distance_within_a_region():
    left, right = np.zeros((1, 2, 2, 3), np.uint8), np.full((1, 2, 2, 3), 51, np.uint8)
    region = np.array([[[True, False], [False, False]]])
    assert region_distance(left, right, region)[0] == pytest.approx(0.2)
    assert region_distance(left, right, np.zeros_like(region))[0] == 0


def test_what_cannot_be_judged_is_refused():
    source, target = _pair(1)
    with pytest.raises(NoChangeError, match=r"items \[1\] have the same image"):
        judge_batch(*(np.stack(images) for images in ([source, source], [source, source], [target, source])))
    with pytest.raises(ValueError, match="share one shape"):
        judge_batch(source[None], source[None, :8], target[None])
    with pytest.raises(ValueError, match="uint8"):
        judge_batch(*(image[None] / 255 for image in (source, source, target)))
    with pytest.raises(ValueError, match="2 lists of candidates for 1"):
        judge_batch(source[None], source[None], target[None], [[], []])
