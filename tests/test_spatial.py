"""Spatial reasoning: the two benchmarks' readers, the matching rules, both modes, and what stands beside accuracy."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy import stats

from visdyn.datasets.spatial_questions import SpatialQuestion
from visdyn.evaluation.benches.bench_spatial import (
    COLUMNS,
    PROMPTS,
    generate_answers,
    lenient_match,
    read_choice,
    score_likelihoods,
    summarise,
)
from visdyn.evaluation.benches.spatial_models import UnifiedAnswers
from visdyn.images import ImageError, load
from visdyn.models.token.scoring import Scores
from visdyn.models.understanding.chat_cache import CachedVLM
from visdyn.quarantine import Quarantine

SIX = ("on/above", "below", "in front of", "behind", "left of", "right of")
FOUR = SIX[2:]
SENTENCES = tuple(f"The drawer is {word} the bottle." for word in ("blocking", "beneath", "touching", "above"))


def _jpeg(colour, size=(40, 30)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "JPEG")
    return buffer.getvalue()


def _mqa_row(image="000000000001.jpg", question="Where is the fork?", options=FOUR, answer="right of", **extra):
    return {"image": image, "question": question, "options": list(options), "answer": answer, **extra}


def _emb_row(name="mp3d_57", options=("garage door", "cabinet", "table", "cart"), answer=2, **extra):
    row = {"data_source": "mp3d", "scene_id": "YV", "question_id": name, "question": "Which is nearest?"}
    row |= {"relation": "close", "image": base64.b64encode(_jpeg("red")).decode(), "answer_options": list(options)}
    return row | {"answer": answer, "objects": [{"name": "table", "bbox": [0, 396, 640, 84]}]} | extra


def _lines(path, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def _assert_reasons(bad, expected):
    for entry, words in zip(bad, expected, strict=True):
        assert words in entry.reason


def _question(options=FOUR, answer=0, benchmark="spatialmqa", name="0", group="", relation="behind"):
    return SpatialQuestion(
        _jpeg("green"), "Where is the dog?", tuple(options), answer, benchmark, group, relation, name
    )


# ----------------------------------------------------------------------------------------------------- the readers


@pytest.mark.parametrize(
    ("output", "option", "expected"),
    [
        ("Left of.", "left of", True),
        ("It is to the LEFT OF the car", "left of", True),
        ("left", "left of", True),
        ("o", "on/above", True),  # the public rule's loophole
        ("left of; right of; behind", "right of", True),  # and its other one
        ("", "left of", False),
        ("  .", "left of", False),
        ("beside", "left of", False),
        ("the drawer is above the bottle", SENTENCES[3], True),
    ],
)
def test_the_lenient_rule_is_a_substring_either_way(output, option, expected):
    assert lenient_match(output, option) is expected


@pytest.mark.parametrize(
    ("output", "options", "expected"),
    [
        ("left of", FOUR, 2),
        ("Left of.", FOUR, 2),
        ('"in front of"', FOUR, 0),
        ("The correct answer is: behind", FOUR, 1),
        ("Output: right of\n", FOUR, 3),
        ("The dog is in front of the car.", FOUR, 0),
        ("left", FOUR, 2),
        ("above", SIX, 0),
        ("On/Above", SIX, 0),
        ("It depends on the view", SIX, None),
        ("o", SIX, None),
        ("left of or right of", FOUR, None),
        ("left of; right of; behind", FOUR, None),
        ("leftover offers", FOUR, None),
        ("", FOUR, None),
        ("?!", FOUR, None),
        ("The drawer is", SENTENCES, None),
        ("the drawer is above the bottle", SENTENCES, 3),
        ("coffee table", ("table", "coffee table"), 1),
        ("the table", ("table", "coffee table"), 0),
        ("the table and the coffee table", ("table", "coffee table"), None),
        ("answering machine", ("answering machine", "machine"), 0),
        ("cup", ("cup", "cup", "pan"), 0),  # one text twice is one answer
    ],
)
def test_the_strict_rule_wants_one_option_named(output, options, expected):
    assert read_choice(output, options).index == expected


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("A", 0),
        ("(b)", 1),
        ("C.", 2),
        ("D) cart", 3),
        ("(A) garage door", 0),
        ("The answer is (C).", 2),
        ("Option B", 1),
        ("table", 2),
        ("(A) or (B)", None),
        ("(A) cabinet", None),
        ("(F)", None),
        ("a nice room", None),
        ("E", None),
    ],
)
def test_marks_are_read_where_the_prompt_gave_them(output, expected):
    options = ("garage door", "cabinet", "table", "cart")
    assert read_choice(output, options, marks=True).index == expected
    if output in ("A", "(b)", "C."):
        assert read_choice(output, options).index is None


@pytest.mark.parametrize("seed", range(3))
def test_no_output_breaks_the_reading(seed):
    generator = np.random.default_rng(seed)
    pieces = [*FOUR, "(A)", "B.", "answer:", "is", "", "\n", "“", "ß", "|", "[", "\\", "😀", "\u2028"]
    for _ in range(300):
        output = " ".join(generator.choice(pieces, generator.integers(0, 6)))
        for marks in (False, True):
            choice = read_choice(output, FOUR, marks)
            assert (choice.index is None) == (choice.num_named != 1)


# ----------------------------------------------------------------------------------------------------------- modes


class _Says:
    """Gives its answers in turn, and remembers the prompts."""

    name = "says"

    def __init__(self, *answers):
        self.answers, self.prompts = list(answers), []

    def answer_many(self, questions):
        ((images, prompt),) = questions
        assert load(images[0]).size == (40, 30)
        self.prompts.append(prompt)
        return [self.answers[len(self.prompts) - 1]]


class _Scores:
    name = "scores"

    def __init__(self, *totals, counts=(1, 2, 3, 4)):
        self.totals, self.counts, self.asked = list(totals), torch.tensor(counts), []

    def score_options(self, image, prompt, options):
        self.asked.append((prompt, options))
        total = torch.tensor(self.totals[len(self.asked) - 1])
        return Scores(total / self.counts[: len(total)], total, self.counts[: len(total)])


def test_generation_prints_chance_and_invalid_beside_the_accuracy():
    questions = [_question(answer=2, name=str(i)) for i in range(4)] + [_question(SIX, 4, name="4")]
    model = _Says("left of", "left of or behind", "no idea", "behind", "o")
    table = generate_answers(model, questions)
    assert list(table) == COLUMNS
    assert len(table) == 10
    summary = summarise(table).set_index("rule")
    chance = (4 / 4 + 1 / 6) / 5
    for rule, correct, invalid, ambiguous in [("strict", 1, 3 / 5, 1 / 5), ("lenient", 3, 1 / 5, 2 / 5)]:
        row = summary.loc[rule]
        assert (row["n"], row["num_correct"], row["accuracy"]) == (5, correct, correct / 5)
        assert row["chance"] == pytest.approx(chance)
        assert row["invalid"] == pytest.approx(invalid)
        assert row["ambiguous"] == pytest.approx(ambiguous)
        assert row["low"] < row["accuracy"] < row["high"]
        assert (row["constant"], row["constant_accuracy"]) == ("left of", 1.0)
    strict = table[table["rule"] == "strict"]
    assert strict["reason"].tolist() == ["", "names 2 options", "names no option", "", "names no option"]
    assert strict["choice"].tolist() == ["left of", "", "", "behind", ""]


def test_the_prompt_shows_the_question_and_every_option_in_order():
    model = _Says("behind", "(A)")
    generate_answers(model, [_question(), _question(SENTENCES, 0, "embspatial")])
    assert "Where is the dog? Options: in front of; behind; left of; right of." in model.prompts[0]
    assert f"(A) {SENTENCES[0]} (B) {SENTENCES[1]}" in model.prompts[1]
    reconstructed = {name for name, prompt in PROMPTS.items() if prompt.status == "reconstructed"}
    assert reconstructed == {"spatialmqa", "embspatial"}


def test_an_answer_by_mark_counts_under_both_rules():
    question = _question(("garage door", "cabinet", "table", "cart"), 2, "embspatial")
    table = generate_answers(_Says("C", "A"), [question, question])
    assert table["correct"].tolist() == [1, 1, 0, 0]
    assert table["choice"].tolist() == ["table", "table", "garage door", "garage door"]


def test_chance_counts_what_the_rule_would_take():
    table = generate_answers(_Says("pan"), [_question(("table", "coffee table", "cup", "pan"), 1)])
    assert table.set_index("rule")["chance"].to_dict() == {"lenient": 0.5, "strict": 0.25}
    twice = generate_answers(_Says("cup"), [_question(("cup", "cup", "pan", "bowl"), 1)])
    assert twice["chance"].tolist() == [0.5, 0.5]
    assert twice["correct"].tolist() == [1, 1]


def test_likelihood_takes_the_best_option_per_token_or_in_total():
    # Totals favour the short first option, means the long last one.
    table = score_likelihoods(_Scores([-1.0, -3.0, -6.0, -2.0]), [_question(answer=3)])
    assert table.set_index("rule")["choice"].to_dict() == {"sum": "in front of", "mean": "right of"}
    assert table.set_index("rule")["correct"].to_dict() == {"sum": 0, "mean": 1}
    assert table["invalid"].tolist() == [0, 0]
    assert table["output"].tolist() == ["-1 -3 -6 -2", "-1 -1.5 -2 -0.5"]
    assert set(table["mode"]) == {"likelihood"}


def test_ties_are_marked_and_bad_scores_refused():
    tied = score_likelihoods(_Scores([-2.0, -2.0, -3.0, -4.0], counts=(1, 1, 1, 1)), [_question()])
    assert tied["ambiguous"].tolist() == [1, 1]
    assert tied["choice"].tolist() == ["in front of"] * 2
    for totals in ([-1.0, -2.0], [math.nan, -1.0, -1.0, -1.0]):
        with pytest.raises(ValueError, match="4 options of question 0"):
            score_likelihoods(_Scores(totals), [_question()])


@pytest.mark.parametrize("run", [generate_answers, score_likelihoods])
def test_an_unreadable_image_is_set_aside_or_raises(run):
    broken = SpatialQuestion(b"junk", "Where?", FOUR, 0, "embspatial", "mp3d", "left", "broken")
    model = _Says("behind") if run is generate_answers else _Scores([-1.0, -2.0, -3.0, -4.0])
    with pytest.raises(ImageError, match="broken"):
        run(model, [broken])
    bad = Quarantine()
    assert len(run(model, [broken, _question()], quarantine=bad)) == 2
    assert [entry.item for entry in bad] == ["embspatial/broken"]


def test_the_summary_breaks_down_and_tests_against_chance():
    questions = [_question(answer=1, group=group, name=f"{group}{i}") for group in ("a", "b") for i in range(20)]
    table = generate_answers(_Says(*["behind"] * 20, *["left of"] * 20), questions)
    rows = summarise(table, by=["group"])
    strict = rows[rows["rule"] == "strict"].set_index("group")
    assert strict["accuracy"].to_dict() == {"a": 1.0, "b": 0.0}
    assert strict.loc["a", "p_chance"] < 1e-6
    assert strict.loc["b", "p_chance"] > 0.99
    whole = summarise(table).set_index("rule").loc["strict"]
    interval = stats.binomtest(20, 40).proportion_ci(0.95, "wilson")
    assert (whole["low"], whole["high"]) == pytest.approx((interval.low, interval.high))
    exact = stats.binomtest(20, 40, 0.25, "greater").pvalue
    assert whole["p_chance"] == pytest.approx(exact)
    with pytest.raises(ValueError, match="no answers"):
        summarise(pd.DataFrame(columns=COLUMNS))


def test_the_test_against_chance_is_exact_where_the_numbers_of_options_differ():
    questions = [_question(("left of", "right of"), 0, name="0"), _question(FOUR, 2, name="1")]
    table = generate_answers(_Says("left of", "behind"), questions)
    # One or two right of a fair coin and a four-sided die: 1 - 1/2 * 3/4.
    assert summarise(table)["p_chance"].tolist() == pytest.approx([0.625, 0.625])


def test_a_run_with_a_cache_asks_nothing_twice(tmp_path):
    questions = [_question(name="0"), _question(SIX, 0, name="1")]
    first = generate_answers(CachedVLM(_Says("behind", "above"), tmp_path / "answers.sqlite"), questions)
    again = _Says()
    pd.testing.assert_frame_equal(first, generate_answers(CachedVLM(again, tmp_path / "answers.sqlite"), questions))
    assert again.prompts == []


def test_a_unified_model_answers_in_both_modes(tiny):
    model = UnifiedAnswers(tiny, max_new_tokens=4)
    questions = [_question(("left", "right", "the red cup"), 1, name=str(i)) for i in range(2)]
    table = generate_answers(model, questions)
    assert set(table["model"]) == {"tiny"}
    assert table["output"].map(lambda text: len(text.split())).max() <= 4
    scores = model.score_options(questions[0].image, "the cup", questions[0].options)
    assert scores.num_tokens.tolist() == [1, 1, 3]
    ids = model.ids([questions[0].image], "the cup")
    assert len(ids) == 1 + 2 + (1 + 16 + 1) + 1  # bos, two words, the image between its marks, end of turn
    for option, total in zip(questions[0].options, scores.total.tolist(), strict=True):
        text = tiny.builder.text(option)
        with torch.inference_mode():
            logits = tiny.lm(input_ids=torch.tensor([[*ids, *text]])).logits[0].float().log_softmax(-1)
        expected = sum(logits[len(ids) - 1 + i, token].item() for i, token in enumerate(text))
        assert total == pytest.approx(expected, abs=1e-4)
    assert len(score_likelihoods(model, questions)) == 4
