"""Quality filter, prompt expansion, their cache, and the stand-in without a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from visdyn.compute.store import Store
from visdyn.datasets.epic_kitchens import Segment, frame_path
from visdyn.mining import curation, curation_prompts
from visdyn.mining.reversible import mine_pairs
from visdyn.models.understanding.chat_cache import CachedVLM, content_key
from visdyn.quarantine import Quarantine

GOOD = "clear: 1\nobject_present: 1\naction_applied: 1"
LONG = "A right hand opens the white door by its silver handle."


class Scripted:
    """A model that answers from a function and remembers what it was asked."""

    name = "scripted"

    def __init__(self, reply):
        self.reply, self.asked = reply, []

    def answer_many(self, questions):
        self.asked += [(list(images), prompt) for images, prompt in questions]
        return [self.reply(images, prompt) for images, prompt in questions]

    def release(self):
        self.released = True


def _reply(quality=GOOD, expansion=LONG):
    return lambda images, prompt: quality if "object_present" in prompt else expansion


@pytest.fixture
def pairs(tmp_path):
    segments = []
    for number in range(3):
        start = 10 + 100 * number
        row = Segment(
            f"P01_01_{number}", "P01", "P01_01", *"abc", start, start + 8, "open door", "open", 3, "door", 8, (), ()
        )
        segments.append(row)
        for frame in range(start, start + 9, 2):
            path = frame_path(tmp_path, row, frame)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((8, 8, 3), frame % 256, np.uint8)).save(path)
    return mine_pairs(segments)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        "```\n" + GOOD + "\n```",
        '{"clear": 1, "object_present": "1", "action_applied": 1}',
        GOOD.replace(": ", " = "),
    ],
)
def test_three_ones_pass(text):
    assert curation.parse_quality(text).passed


def test_a_zero_fails_and_is_named():
    quality = curation.parse_quality(GOOD.replace("present: 1", "present: 0"))
    assert not quality.passed
    assert quality.failures() == "object_present"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yes, all fine",
        "clear: 1\nobject_present: 1",
        GOOD.replace("r: 1", "r: 2"),
        GOOD + "\nclear: 0",
        GOOD.replace("r: 1", "r: 10"),
    ],
)
def test_unclear_answers_are_no_pass(text):
    with pytest.raises(curation.CurationError):
        curation.parse_quality(text)


@pytest.mark.parametrize(
    "text", [LONG, f'"{LONG}"', f"Prompt: {LONG}", f"```text\n{LONG}\n```", LONG.replace(" by ", "\nby ")]
)
def test_expansions_are_cleaned(text):
    assert curation.parse_expansion(text) == LONG


@pytest.mark.parametrize("text", ["", "open door", "word " * 301, "I'm sorry, I cannot describe these images."])
def test_useless_expansions_are_refused(text):
    with pytest.raises(curation.CurationError):
        curation.parse_expansion(text)


def test_curation_asks_what_the_paper_says(pairs, tmp_path):
    model = Scripted(_reply())
    kept = curation.curate(pairs[:1], tmp_path, curation.VLMCurator(model))
    assert [(p.id, p.forward_prompt, p.forward_short, p.reverse_short) for p in kept] == [
        ("P01_01_0", LONG, "open door", "close the door")
    ]
    (filtered, asked), (forward, do), (reverse, undo) = model.asked
    assert len(filtered) == 2
    assert len(forward) == 5
    assert filtered == [forward[0], forward[-1]]
    assert reverse == forward[::-1]
    assert "open door" in asked
    assert "open door" in do
    assert "close the door" in undo
    assert curation_prompts.STATUS == "reconstructed"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (_reply(quality=GOOD.replace("d: 1", "d: 0")), "fails the quality filter: action_applied"),
        (_reply(quality="it looks fine"), "no single 0 or 1"),
        (_reply(expansion=""), "0 words"),
    ],
)
def test_unusable_pairs_are_set_aside_with_their_reason(pairs, tmp_path, reply, reason):
    quarantine = Quarantine()
    assert curation.curate(pairs, tmp_path, curation.VLMCurator(Scripted(reply)), quarantine) == []
    assert [entry.item for entry in quarantine] == ["P01_01_0", "P01_01_1", "P01_01_2"]
    assert all(reason in entry.reason for entry in quarantine)


def test_missing_frames_are_set_aside(pairs, tmp_path):
    frame_path(tmp_path, pairs[1].segment, 110).unlink()
    quarantine = Quarantine()
    kept = curation.curate(pairs, tmp_path, curation.VLMCurator(Scripted(_reply())), quarantine)
    assert [pair.id for pair in kept] == ["P01_01_0", "P01_01_2"]
    assert "frame_0000000110" in quarantine.items[0].reason


@pytest.mark.parametrize(("dying", "hits"), [("object_present", 2), ("plain prose", 3 + 2 * 2)])
def test_curation_goes_on_where_it_was_killed(pairs, tmp_path, dying, hits):
    """Killed at the third pair, in the filter or in the expansion: what was answered is not asked again."""

    def dies_on_the_third_pair(images, prompt):
        if "0000000210" in str(images) and dying in prompt:
            raise KeyboardInterrupt
        return _reply()(images, prompt)

    cache = tmp_path / "cache" / "answers.sqlite"
    model = CachedVLM(Scripted(dies_on_the_third_pair), cache)
    with pytest.raises(KeyboardInterrupt):
        curation.curate(pairs, tmp_path, curation.VLMCurator(model), batch=1)
    model = Scripted(_reply())
    cached = CachedVLM(model, cache)
    assert len(curation.curate(pairs, tmp_path, curation.VLMCurator(cached), batch=2)) == 3
    assert (cached.hits, cached.misses, len(model.asked)) == (hits, 9 - hits, 9 - hits)
    assert len(Store(cache).keys()) == 9


def test_the_filter_leaves_memory_before_another_model_writes(pairs, tmp_path):
    judge, writer = Scripted(_reply()), Scripted(_reply())
    kept = curation.curate(pairs, tmp_path, curation.VLMCurator(judge, writer), batch=2)
    assert len(kept) == 3
    assert judge.released
    assert all("object_present" in prompt for _, prompt in judge.asked)
    assert len(writer.asked) == 6


def test_progress_is_told_and_a_damaged_frame_is_set_aside(pairs, tmp_path):
    frame_path(tmp_path, pairs[0].segment, 14).write_bytes(b"damaged")
    quarantine, lines = Quarantine(), []
    curator = curation.VLMCurator(Scripted(_reply()))
    assert len(curation.curate(pairs, tmp_path, curator, quarantine, batch=1, told=lines.append)) == 2
    assert "frame_0000000014" in quarantine.items[0].reason
    assert lines[-1] == "2 of 2 pairs expanded"


def test_the_cache_goes_by_content(tmp_path):
    black, grey = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 9, np.uint8)
    Image.fromarray(black).save(tmp_path / "a.png")
    key = content_key("m", [black, grey], "p")
    assert key == content_key("m", [tmp_path / "a.png", grey], "p")
    others = [("n", [black, grey], "p"), ("m", [grey, black], "p"), ("m", [black, grey], "q"), ("m", [black], "p")]
    assert key not in {content_key(*other) for other in others}


def test_answers_that_an_earlier_version_kept_are_not_asked_again(tmp_path, capsys):
    """The old form: lines of JSON in UTF-8, the last one cut by a kill."""
    image, model = np.zeros((4, 4, 3), np.uint8), Scripted(lambda images, prompt: "asked again")
    key = content_key(model.name, [image], "what is this?")
    line = json.dumps({"key": key, "model": model.name, "answer": "une tasse brisée"}, ensure_ascii=False)
    (tmp_path / "a.b.jsonl").write_text(f'{line}\n{{"key": "cut by a ki', encoding="utf-8")
    with pytest.warns(UserWarning, match="1 damaged lines"):
        cached = CachedVLM(model, tmp_path / "a.b.sqlite")
    assert "1 answers of a.b.jsonl were taken over" in capsys.readouterr().out
    assert cached.answer_many([((image,), "what is this?")]) == ["une tasse brisée"]
    assert CachedVLM(model, tmp_path / "a.b.sqlite").answer_many([((image,), "what?")]) == ["asked again"]
    assert [prompt for _, prompt in model.asked] == ["what?"]


def test_the_stand_in_passes_on_the_datas_own_prompts(pairs, tmp_path):
    quarantine = Quarantine()
    curator = curation.AnnotationCurator({"P01_01_0": ("do it at length", "undo it at length")})
    kept = curation.curate(pairs[:2], tmp_path, curator, quarantine)
    assert [(p.forward_prompt, p.reverse_prompt) for p in kept] == [("do it at length", "undo it at length")]
    assert "no long prompts" in quarantine.items[0].reason
