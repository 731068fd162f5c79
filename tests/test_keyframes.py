"""Key-frame selection: laws on any profile, known answers, and clips with known motion."""

from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_clips import write_video

from visdyn.datasets.clips import Clip, ClipError
from visdyn.mining.clip_mining import ClipSettings, mine_clips
from visdyn.mining.keyframes import (
    FLOWS,
    MODES,
    KeyframePair,
    clean_pair,
    flow_profiles,
    select_from_profile,
    select_keyframes,
)
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine

PUBLIC = shared_data() / "data" / "videos" if shared_data() else None


def flow_profile(frames, flow="farneback", statistic="mean"):
    return flow_profiles(frames, flow, (statistic,))[statistic]


PROFILES = st.lists(st.floats(0, 10) | st.sampled_from([0.0, 1.0]), max_size=60)


@given(PROFILES, st.integers(1, 8), st.integers(1, 25), st.sampled_from(MODES))
@settings(max_examples=120, deadline=None)
def test_selection_is_sorted_bounded_spaced_and_deterministic(profile, top_k, min_interval, mode):
    chosen = select_from_profile(profile, top_k, min_interval, mode)
    assert chosen == sorted(set(chosen))
    assert len(chosen) <= top_k
    assert all(0 <= index < len(profile) for index in chosen)
    assert all(b - a >= min_interval for a, b in pairwise(chosen))
    assert chosen == select_from_profile(np.array(profile), top_k, min_interval, mode)


@given(PROFILES, st.integers(1, 8), st.integers(1, 25))
@settings(max_examples=60, deadline=None)
def test_both_readings_of_the_paper_keep_the_highest_frame(profile, top_k, min_interval):
    first = select_from_profile(profile, top_k, min_interval, "top_then_space")
    greedy = select_from_profile(profile, top_k, min_interval, "greedy_spaced")
    assert len(first) <= len(greedy)
    if max(profile, default=0) > 0:
        highest = int(np.argmax(profile))
        assert highest in first
        assert highest in greedy
    else:
        assert first == greedy == []


def test_the_two_readings_differ_as_table_7_says():
    """Six neighbouring peaks and lesser motion elsewhere: 1 key-frame by the first reading, 6 by the second."""
    profile = np.full(200, 0.1)
    profile[100:106] = [1, 2, 3, 4, 5, 6]
    assert select_from_profile(profile, mode="top_then_space") == [105]
    assert select_from_profile(profile, mode="greedy_spaced") == [0, 20, 40, 60, 80, 105]


def test_equal_motion_is_settled_by_the_earlier_frame():
    assert select_from_profile([0, 2, 2, 2], top_k=1, min_interval=1) == [1]


def test_quiet_frames_lie_between_the_actions():
    profile = np.full(120, 0.05)
    profile[20:35] = 1.0
    profile[70:90] = 0.8
    before, between, after = select_from_profile(profile, mode="quiet_around_peak")
    assert before < 20
    assert 35 <= between < 70
    assert after >= 90
    assert select_from_profile(np.full(50, 0.05), mode="quiet_around_peak") == []


def test_of_a_rest_the_quietest_frame_is_taken():
    profile = np.full(60, 0.1)
    profile[25:35] = 1.0
    profile[8:13] = profile[50:55] = 0.01
    assert select_from_profile(profile, mode="quiet_around_peak") == [10, 52]


@pytest.mark.parametrize("profile", [[1, np.nan], [-1.0], [[1.0]]])
def test_a_bad_profile_is_refused(profile):
    with pytest.raises(ValueError, match="flow profile"):
        select_from_profile(profile)


def test_bad_settings_are_refused():
    with pytest.raises(ValueError, match="unknown mode 'best'"):
        select_from_profile([1.0], mode="best")
    with pytest.raises(ValueError, match="at least 1"):
        select_from_profile([1.0], top_k=0)
    with pytest.raises(ValueError, match="unknown flow"):
        flow_profile([], flow="raft")


def _scene(shift=0, size=64):
    coarse = np.random.default_rng(0).integers(0, 255, (size // 8, size // 8, 3)).astype(np.uint8)
    return np.roll(coarse.repeat(8, 0).repeat(8, 1), shift, axis=1)


@pytest.mark.parametrize("flow", FLOWS)
def test_the_profile_measures_pixels_per_frame(flow):
    smooth = [np.asarray(_scene(0, 128)[..., 0], float) for _ in range(4)]
    blurred = [sum(np.roll(f, (i, j), (0, 1)) for i in range(-4, 5) for j in range(-4, 5)) / 81 for f in smooth]
    frames = [np.roll(f, shift, 1).astype(np.uint8) for f, shift in zip(blurred, (0, 0, 2, 2), strict=True)]
    profile = flow_profile(iter(frames), flow)
    assert profile.shape == (4,)
    assert profile[0] == 0
    assert profile[1] < 0.05
    assert profile[2] == pytest.approx(2, abs=0.3)
    assert profile[3] < 0.05


def test_the_local_statistic_tells_a_small_motion_from_a_shaking_camera():
    scene = sum(
        np.roll(_scene(0, 64)[..., 0].astype(float), (i, j), (0, 1)) for i in range(-3, 4) for j in range(-3, 4)
    )
    still = (scene / 49).astype(np.uint8)
    hand = still.copy()
    hand[40:60, 20:36] = still[40:60, 18:34]
    frames = [still, np.roll(still, 1, axis=1), still, hand]
    mean, local = flow_profile(frames), flow_profile(frames, statistic="local")
    assert mean[1] > mean[3]
    assert local[3] > 2 * local[1]
    with pytest.raises(ValueError, match="unknown statistic"):
        flow_profile(frames, statistic="median")


def test_large_frames_are_shrunk_and_sizes_must_agree():
    big = [np.zeros((600, 800, 3), np.uint8)] * 2
    assert flow_profile(big).tolist() == [0, 0]
    with pytest.raises(ValueError, match="frame 1 has another size"):
        flow_profile([np.zeros((64, 64), np.uint8), np.zeros((64, 60), np.uint8)])


@pytest.fixture
def clip(tmp_path):
    """50 frames: still for 15, moving 2 pixels a frame for 20, still again."""
    frames = [_scene(2 * min(max(i - 15, 0), 20)) for i in range(50)]
    return Clip(write_video(tmp_path / "d/c/v.avi", frames), "d", "c", "v")


def test_key_frames_of_a_clip_lie_in_its_motion(clip):
    assert all(15 < index <= 35 for index in select_keyframes(clip.path, min_interval=5))
    before, after = select_keyframes(clip, mode="quiet_around_peak")
    assert before <= 15
    assert after >= 35


def test_mined_pairs_statistics_and_quarantine(clip, tmp_path):
    (tmp_path / "bad.avi").write_text("no video")
    write_video(tmp_path / "one.avi", [_scene()])
    broken = [Clip(tmp_path / f"{name}.avi", "d", "c", name) for name in ("bad", "one")]
    settled = {clip.key: [(0, 15, "before"), (36, 49, "after")]}
    quarantine = Quarantine()
    mined = mine_clips([*broken, clip], ClipSettings(min_interval=5, modes=MODES), settled, quarantine)
    assert mined.quarantine is quarantine
    assert [entry.item for entry in quarantine] == [str(item.path) for item in broken]
    assert mined.stats["mode"].tolist() == list(MODES)
    assert (mined.stats["num_frames"] == 50).all()
    assert (mined.stats["num_pairs"] == (mined.stats["num_keyframes"] - 1)).all()
    clean = dict(zip(mined.stats["mode"], mined.stats["num_clean_pairs"], strict=True))
    assert clean == {"top_then_space": 0, "greedy_spaced": 0, "quiet_around_peak": 1}
    pair = mined.pairs[-1]
    assert isinstance(pair, KeyframePair)
    assert pair.as_dict().keys() == {"dataset", "class_name", "video", "frame_a", "frame_b", "mode"}
    assert len(mined.pairs) == mined.stats["num_pairs"].sum()


def test_without_known_states_clean_pairs_are_missing_not_zero(clip):
    mined = mine_clips([clip])
    assert mined.stats["num_clean_pairs"].isna().all()
    assert mine_clips([]).stats.empty


def test_a_clean_pair_is_two_settled_frames_in_different_states():
    ranges = [(0, 9, "open"), (30, 49, "closed"), (60, 70, "open")]
    assert clean_pair(0, 30, ranges)
    assert clean_pair(9, 49, ranges)
    assert not clean_pair(10, 30, ranges)
    assert not clean_pair(0, 50, ranges)
    assert not clean_pair(5, 65, ranges)
    assert not clean_pair(0, 9, ranges)


def test_small_frames_take_well_under_two_milliseconds():
    frames = [_scene(i) for i in range(50)]
    flow_profile(frames[:3])
    start = time.process_time()
    flow_profile(frames)
    assert (
        time.process_time() - start
    ) / 50 < 0.004  # measured 0.0006 on one core; the bound leaves room for slow ones


@pytest.mark.skipif(PUBLIC is None or not PUBLIC.is_dir(), reason="the public clips are not at hand")
def test_public_clips():
    chosen = select_keyframes(PUBLIC / "ucf_clip.avi", flow="dis")
    assert 2 <= len(chosen) <= 6
    with pytest.raises(ClipError, match="50 frames, 28 decode"):
        select_keyframes(PUBLIC / "corrupted.mp4")
