"""The Do-Undo benchmark's files, with their quirks."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from visdyn.datasets import doundo_bench as bench
from visdyn.datasets.bad_items import DatasetError
from visdyn.datasets.epic_kitchens import Segment
from visdyn.quarantine import Quarantine
from visdyn.trajectory import ReversiblePair

ROW = {
    "narration_id": "P03_22_5",
    "participant_id": "P03",
    "video_id": "P03_22",
    "start_frame": 1810,
    "stop_frame": 1900,
    "narration": "turn on tap",
    "verb_class": 6,
    "noun_class": 0,
    "forward_prompt": "A left hand turns the tap on.",
    "reverse_prompt": "A left hand turns the tap off.",
}


def _load(tmp_path, rows, quarantine=None, **options):
    (tmp_path / "a.json").write_text(json.dumps(rows))
    return bench.load(tmp_path / "a.json", tmp_path, quarantine, **options)


def _one(tmp_path, **changes):
    (pair,) = _load(tmp_path, [ROW | changes], require_images=False)
    return pair


def test_the_released_fields(tmp_path):
    pair = _one(tmp_path)
    assert pair.start == tmp_path / "P03/rgb_frames/P03_22/frame_0000001810.jpg"
    assert pair.end.name == "frame_0000001900.jpg"
    assert (pair.verb, pair.noun, pair.id) == ("turn-on", "tap", "P03_22_5")
    assert (pair.forward_short, pair.reverse_short) == ("turn on tap", "")
    assert pair.forward_prompt == "A left hand turns the tap on."


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ("['first one', 'second']", "first one"),
        (["first one"], "first one"),
        ("[sic] open", "[sic] open"),
        ("[sic]", "[sic]"),
    ],
)
def test_prompts_that_look_like_lists(tmp_path, value, read):
    assert _one(tmp_path, forward_prompt=value).forward_prompt == read


def test_overrides_and_older_columns(tmp_path):
    pair = _one(tmp_path, final_start_img="/x/s.png", end_img="e.png", narration_id=None)
    assert (str(pair.start), str(pair.end), pair.id) == ("/x/s.png", "e.png", "s")
    pair = _one(tmp_path, forward_prompt=None, forward_prompt_qwen30b="old words")
    assert pair.forward_prompt == "old words"
    pair = _one(tmp_path, verb="open", noun="tap:water", reverse_short="close it", forward_short="open it")
    assert (pair.verb, pair.noun, pair.forward_short, pair.reverse_short) == (
        "open",
        "tap:water",
        "open it",
        "close it",
    )


@pytest.mark.parametrize(
    ("narration", "verb", "noun"),
    [
        ("turn oven on", "turn-on", "oven"),
        ("turn the tap water off.", "turn-off", "tap water"),
        ("turning tap on", "turn-on", "tap"),
        ("turn heat on low", "turn-on", "heat"),
        ("turn light off with left hand", "turn-off", "light"),
        ("turn knob on stove", "turn", "knob"),  # a place, no particle
        ("put rice cooker down", "put-down", "rice cooker"),
        ("put pan on hob", "put", "pan"),
        ("pick cup up from table", "pick-up", "cup"),
        ("opening the fridge", "open", "fridge"),
        ("continue opening bag", "open", "bag"),
        ("try to open sauce", "open", "sauce"),
        ("and get spade", "get", "spade"),
        ("stacks bowls", "stack", "bowls"),
        ("wash open jar", "wash", "open jar"),
        ("put on glove", "put-on", "glove"),
        ("Turn Oven On", "turn-on", "Oven"),
        ("Turn On The Tap", "turn-on", "Tap"),
        ("PICK CUP UP FROM TABLE", "pick-up", "CUP"),
    ],
)
def test_narrations_are_free_text(tmp_path, narration, verb, noun):
    pair = _one(tmp_path, narration=narration)
    assert (pair.verb, pair.noun) == (verb, noun)


def test_rows_that_stand_twice_or_run_backwards_or_lead_out_are_set_aside(tmp_path):
    changes = [{}, {}, {"narration_id": "b", "stop_frame": 1810}, {"narration_id": "c", "video_id": "../../.."},
               {"narration_id": "d", "participant_id": "/etc"}]  # fmt: skip
    rows = [ROW | change for change in changes]
    bad = Quarantine()
    assert len(_load(tmp_path, rows, bad, require_images=False)) == 1
    for entry, reason in zip(bad, ("stands there twice", "does not come after", "leads out", "leads out"), strict=True):
        assert reason in entry.reason
    with pytest.warns(UserWarning, match=r"passwd cannot be decoded|passwd does not exist"):
        assert _load(tmp_path, [ROW | {"start_img": "/etc/passwd", "end_img": "/etc/passwd"}]) == []


def test_ragged_rows_of_a_csv_and_bad_items_of_a_json_are_set_aside(tmp_path):
    head, row = ",".join(ROW), ",".join(map(str, ROW.values()))
    (tmp_path / "a.csv").write_text(f"{head}\n{row}\n{row.replace('P03_22_5', 'x')},more\n", encoding="utf-16")
    bad = Quarantine()
    assert bench.load(tmp_path / "a.csv", tmp_path, bad, require_images=False) == [_one(tmp_path)]
    assert "has 11 cells under 10 columns" in bad.items[0].reason
    text = json.dumps(ROW)
    (tmp_path / "a.json").write_text(f'[{text}, {{"narration": "a", "narration": "b"}}]')
    bad = Quarantine()
    assert bench.load(tmp_path / "a.json", tmp_path, bad, require_images=False) == [_one(tmp_path)]
    assert "stands twice" in bad.items[0].reason


def test_verb_and_noun_come_from_the_segment_else_from_the_narration(tmp_path):
    row = ROW | {"narration": "place the green cup in basket"}
    pair = _one(tmp_path, narration=row["narration"])
    assert (pair.verb, pair.noun) == ("place", "green cup")
    segment = Segment(
        "P03_22_5", "P03", "P03_22", *"abc", 1, 9, row["narration"], "place-in", 1, "cup:green", 0, (), ()
    )
    (pair,) = _load(tmp_path, [row], require_images=False, segments=[segment])
    assert (pair.verb, pair.noun) == ("place-in", "cup:green")


def test_a_csv_reads_as_the_json(tmp_path):
    with open(tmp_path / "a.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, ROW)
        writer.writeheader()
        writer.writerow(ROW)
    assert bench.load(tmp_path / "a.csv", tmp_path, require_images=False) == [_one(tmp_path)]


def test_unusable_rows_are_set_aside(tmp_path):
    missing = {name: value for name, value in ROW.items() if name != "video_id"}
    rows = [
        ROW | {"reverse_prompt": " "},
        missing,
        ROW | {"start_frame": "x"},
        3,
        ROW | {"forward_prompt": ["a"], "narration": 4},
    ]
    quarantine = Quarantine()
    assert _load(tmp_path, rows, quarantine, require_images=False) == []
    reasons = [entry.reason for entry in quarantine]
    assert "empty reverse_prompt" in reasons[0]
    assert "video_id" in reasons[1]
    assert quarantine.items[3].item == "a.json[3]"
    assert len(quarantine) == 5


def test_missing_frames_are_set_aside(tmp_path):
    with pytest.warns(UserWarning, match="frame_0000001810.jpg does not exist"):
        assert _load(tmp_path, [ROW]) == []


def test_malformed_files_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="does not exist"):
        bench.load(tmp_path / "none.json", tmp_path)
    with pytest.raises(DatasetError, match="holds a dict"):
        _load(tmp_path, ROW)


WORDS = (
    st.text(st.characters(min_codepoint=32, max_codepoint=500), min_size=1)
    .map(str.strip)
    .filter(lambda text: text and not text.startswith("["))
)


@given(st.lists(st.tuples(WORDS, WORDS, WORDS), min_size=1, max_size=4))
@settings(max_examples=20, deadline=None)
def test_what_is_dumped_loads_again(tmp_path_factory, texts):
    root = tmp_path_factory.mktemp("doundo")
    segments, pairs = [], []
    for number, (forward, reverse, short) in enumerate(texts):
        segment = Segment(
            f"P01_02_{number}", "P01", "P01_02", *"abc", 3, 9 + number, "open tin", "open", 3, "tin", 8, ("tin",), (8,)
        )
        folder = root / "P01/rgb_frames/P01_02"
        images = folder / "frame_0000000003.jpg", folder / f"frame_{9 + number:010d}.jpg"
        pairs.append(
            ReversiblePair(*images, forward, reverse, short, short, "open tin", "open", "tin", segment.narration_id)
        )
        segments.append(segment)
    bench.dump(reversed(pairs), root / "out" / "a.json", segments)
    assert bench.load(root / "out" / "a.json", root, require_images=False) == pairs


def test_only_the_released_fields_on_request(tmp_path):
    segment = Segment(
        "P03_22_5", "P03", "P03_22", *"abc", 1810, 1999, "turn on tap", "turn-on", 6, "tap", 0, ("tap",), (0,)
    )
    bench.dump([_one(tmp_path)], tmp_path / "o.json", {segment.narration_id: segment}, extras=False)
    # The stop frame is that of the image used (1900), which may have been clamped below the segment's (1999).
    assert json.loads((tmp_path / "o.json").read_text()) == [ROW]
    with pytest.raises(DatasetError, match="pair other has no segment"):
        bench.dump([replace(_one(tmp_path), id="other")], tmp_path / "o.json", [segment])
