"""EPIC-KITCHENS segments and frames."""

from __future__ import annotations

import csv
from dataclasses import asdict, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.datasets import epic_kitchens as epic
from visdyn.datasets.bad_items import DatasetError
from visdyn.paths import shared_data
from visdyn.quarantine import Quarantine, SetAsideError

PUBLIC = shared_data() / "data/epic-kitchens-100-annotations/EPIC_100_validation.csv" if shared_data() else None

SEGMENT = epic.Segment(
    *("P01_11_0", "P01", "P01_11", "00:00:00.560", "00:00:00.00", "00:00:01.89", 10, 50),
    *("put down plate", "put-down", 1, "cutter:pizza", 2, ("plate", "knife"), (2, 4)),
)


def _csv(path, segments, columns=epic.COLUMNS):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(
            asdict(s) | {"all_nouns": list(s.all_nouns), "all_noun_classes": list(s.all_noun_classes)} for s in segments
        )
    return path


def _frames(root, indices, segment=SEGMENT):
    for index in indices:
        path = epic.frame_path(root, segment, index)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return root


def _numbers(paths):
    return [int(path.stem.removeprefix("frame_")) for path in paths]


def test_rows_are_typed(tmp_path):
    assert epic.load_segments(_csv(tmp_path / "x.csv", [SEGMENT])) == [SEGMENT]


@pytest.mark.parametrize("column", epic.COLUMNS)
def test_a_missing_column_is_named(tmp_path, column):
    path = _csv(tmp_path / "x.csv", [SEGMENT], [name for name in epic.COLUMNS if name != column])
    with pytest.raises(DatasetError, match=rf"lacks the column {column};"):
        epic.load_segments(path)


@pytest.mark.parametrize("change", [{"start_frame": "1.5"}, {"verb_class": ""}, {"all_nouns": "["}])
def test_an_unreadable_cell_is_named(tmp_path, change):
    row = asdict(SEGMENT) | {"all_nouns": "[]", "all_noun_classes": "[]"} | change
    with open(tmp_path / "x.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, epic.COLUMNS)
        writer.writeheader()
        writer.writerow(row)
    with pytest.raises(DatasetError, match=rf"line 2: column {next(iter(change))}"):
        epic.load_segments(tmp_path / "x.csv")


def test_a_row_that_cannot_be_read_is_set_aside_and_the_others_are_read(tmp_path):
    path = _csv(tmp_path / "x.csv", [SEGMENT, *(replace(SEGMENT, narration_id=name) for name in "bcd"), SEGMENT])
    lines = path.read_text().splitlines()
    lines[2] = lines[2].replace(",10,50,", ",10.5,50,")
    lines[3] += ",one more"
    path.write_text("\n".join(lines))
    quarantine = Quarantine(most=0.7)
    assert [segment.narration_id for segment in epic.load_segments(path, quarantine)] == [SEGMENT.narration_id, "d"]
    reasons = {entry.item: entry.reason for entry in quarantine}
    assert reasons == {
        "x.csv line 3": "column start_frame cannot be read from '10.5'",
        "x.csv line 4": "has 16 cells under 15 columns",
        "x.csv line 6": "narration_id P01_11_0 stands there twice; the first row is kept",
    }
    with pytest.raises(SetAsideError, match=r"3 of 5 set aside, runtime\.most_set_aside allows 50%"):
        epic.load_segments(path, Quarantine(most=0.5))
    with pytest.raises(DatasetError, match=r"x\.csv line 4: has 16 cells"):
        epic.load_segments(path)
    _frames(tmp_path, [10, 50])
    read = epic.load_trajectories(path, tmp_path, quarantine := Quarantine())
    assert ([item.id for item in read], len(quarantine)) == ([SEGMENT.narration_id, "d"], 3)


def test_frames_lie_where_the_public_archives_put_them(tmp_path):
    path = epic.frame_path(tmp_path, SEGMENT, 1810)
    assert path == tmp_path / "P01" / "rgb_frames" / "P01_11" / "frame_0000001810.jpg"


def test_the_index_rate_follows_the_video_id():
    assert (epic.index_rate("P03_22"), epic.index_rate("P03_122")) == (60, 50)
    with pytest.raises(DatasetError, match="kitchen"):
        epic.index_rate("kitchen")


def test_five_frames_are_spread_evenly(tmp_path):
    root = _frames(tmp_path, range(1, 100))
    assert _numbers(epic.segment_frames(root, SEGMENT)) == [10, 20, 30, 40, 50]
    assert _numbers(epic.segment_frames(root, SEGMENT, 2)) == [10, 50]
    with pytest.raises(ValueError, match="n is 1"):
        epic.segment_frames(root, SEGMENT, 1)


def test_a_stop_past_the_last_file_is_clamped_by_a_second_at_most(tmp_path):
    root = _frames(tmp_path, range(1, 41))
    assert _numbers(epic.segment_frames(root, SEGMENT, 3)) == [10, 25, 40]
    assert _numbers(epic.segment_frames(root, replace(SEGMENT, stop_frame=100), 2)) == [10, 40]
    with pytest.raises(epic.FrameError, match="frame_0000000101"):
        epic.segment_frames(root, replace(SEGMENT, stop_frame=101), 2)


def test_a_hole_is_not_clamped(tmp_path):
    root = _frames(tmp_path, [10, 20, 49, 51])
    with pytest.raises(epic.FrameError, match="frame_0000000050"):
        epic.segment_frames(root, SEGMENT)
    with pytest.raises(epic.FrameError, match="frame_0000000009"):
        epic.segment_frames(root, replace(SEGMENT, start_frame=9, stop_frame=20))


@given(st.sets(st.integers(11, 49)), st.integers(2, 8))
@settings(max_examples=25, deadline=None)
def test_sampled_frames_exist_in_order_with_both_ends(tmp_path_factory, between, n):
    root = _frames(tmp_path_factory.mktemp("frames"), {10, 50} | between)
    numbers = _numbers(epic.segment_frames(root, SEGMENT, n))
    assert len(numbers) == n
    assert (numbers[0], numbers[-1]) == (10, 50)
    assert numbers == sorted(numbers)
    assert set(numbers) <= {10, 50} | between


def test_trajectories_and_what_is_set_aside(tmp_path):
    wrong = replace(SEGMENT, narration_id="P01_109_0", video_id="P01_109")
    rows = [SEGMENT, replace(SEGMENT, narration_id="late", start_frame=900, stop_frame=950), wrong]
    rows += [
        replace(SEGMENT, narration_id="mute", narration=" "),
        replace(SEGMENT, narration_id="empty", stop_frame=10),
    ]
    _frames(_frames(tmp_path, [10, 50]), [10, 50], wrong)
    quarantine = Quarantine()
    read = epic.load_trajectories(_csv(tmp_path / "x.csv", rows), tmp_path, quarantine)
    assert [(item.id, item.action, item.subset) for item in read] == [("P01_11_0", "put down plate", "epic")]
    assert _numbers([read[0].source, read[0].target]) == [10, 50]
    assert [entry.item for entry in quarantine] == ["late", "P01_109_0", "mute", "empty"]
    assert "errata" in quarantine.items[1].reason


@pytest.mark.skipif(PUBLIC is None or not PUBLIC.is_file(), reason="the public EPIC-KITCHENS-100 CSV is not at hand")
def test_the_public_validation_segments():
    segments = epic.load_segments(PUBLIC)
    assert len(segments) == 9668
    assert segments[1].verb == "put-down"
    assert {epic.index_rate(segment.video_id) for segment in segments} == {60}
    assert all(segment.start_frame < segment.stop_frame for segment in segments)
