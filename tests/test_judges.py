"""Reading scores out of free text."""

import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from visdyn.evaluation.judges import Scores, parse_scores, read_answer
from visdyn.evaluation.judges.judge_prompts import load_prompt

READ = {
    "plain dictionary": '{"score": [8, 7], "reasoning": "ok"}',
    "single quotes": "{'score': [8, 7], 'reasoning': 'ok'}",
    "python fence": '```python\n{"score": [8, 7], "reasoning": "ok"}\n```',
    "json fence": '```json\n{"score": [8, 7]}\n```',
    "fence without language": '```\n{"score": [8, 7]}\n```',
    "fence never closed": '```json\n{"score": [8, 7]}',
    "prose before and after": 'Here is my answer:\n{"score": [8, 7]}\nI hope this helps [see 1, 2].',
    "prose around a fence": 'Sure!\n```python\n{"score": [8, 7]}\n```\nDone.',
    "curly quotes": "{“score”: [8, 7], “reasoning”: “ok”}",
    "curly single quotes": "{‘score’: [8, 7]}",
    "missing closing quote of the reasoning": '{"score": [8, 7], "reasoning": "the cat is',
    "missing closing quote of the key": '{"score: [8, 7], "reasoning": "ok"}',
    "missing opening quote of the key": '{score": [8, 7]}',
    "no quotes": "{score: [8, 7], reasoning: ok}",
    "no braces": '"score": [8, 7]',
    "extra closing bracket, as in the printed template": '{"score": [8, 7], "reasoning": "ok"}]}',
    "space before the colon": '{"score" : [8, 7]}',
    "spaces everywhere": '{ "score"   :   [ 8 ,  7 ]  }',
    "no spaces": '{"score":[8,7]}',
    "line breaks in the list": '{"score":\n [\n  8,\n  7\n ]}',
    "nested list": '{"score": [[8, 7]]}',
    "list of lists": '{"score": [[8], [7]]}',
    "tuple": '{"score": (8, 7)}',
    "strings": '{"score": ["8", "7"]}',
    "list as a string": '{"score": "[8, 7]"}',
    "floats": '{"score": [8.0, 7.]}',
    "out of ten": '{"score": ["8/10", "7 / 10"]}',
    "trailing comma": '{"score": [8, 7,]}',
    "leading zero and plus": '{"score": [08, +7]}',
    "upper case": '{"Score": [8, 7]}',
    "plural": '{"scores": [8, 7]}',
    "output score": "output score = [8, 7]",
    "bold markdown": "**score**: [8, 7]\n\nThe edit works.",
    "bold with the colon inside": "**Score:** [8, 7]",
    "code span": "`score`: `[8, 7]`",
    "escaped quotes": '"{\\"score\\": [8, 7]}"',
    "full-width punctuation": '{"score"：［8，7］}',
    "reasoning first": '{"reasoning": "changed 2 of 3", "score": [8, 7]}',
    "template echoed before the answer": 'The format is {"score": [...]}.\n{"score": [8, 7]}',
    "placeholder names echoed": '"score": [score1, score2]\n"score": [8, 7]',
    "said twice": '{"score": [8, 7]} In short, score = [8, 7].',
    "named scores": '{"score1": 8, "score2": 7}',
    "named scores on lines": "score1: 8\nscore2: 7",
    "criteria": '{"editing_success": 8, "minimal_editing": "7"}',
    "scale mentioned as a list": 'On a scale of [0, 10]: {"score": [8, 7]}',
    "bare list": "[8, 7]",
    "bare list in a fence": "```python\n[8, 7]\n```",
    "another score in the reasoning": '{"reasoning": "I would not give score: [10, 10] here", "score": [8, 7]}',
    "another score in the reasoning, in Python": "{'reasoning': \"score: [1, 1] isn't it\", 'score': [8, 7]}",
    "another score in prose beside": 'A score of [10, 10] is too much, so score: [9, 9]?\n{"score": [8, 7]}',
    "braces in the reasoning": '{"reasoning": "a {score: [1, 1]} \\" } of", "score": [8, 7]}',
    "curly quotes in the reasoning": '{"reasoning": "the “score”: [1, 1]", "score": [8, 7]}',
    "a dictionary of scores": '{"score": {"editing_success": 8, "minimal_editing": {"value": "7/10", "why": "x"}}}',
    "a list of criteria": '{"score": [{"name": "success", "score": 8}, {"name": "minimal", "score": 7}]}',
    "a list around it": '[{"score": [8, 7]}]',
    "an envelope": '{"result": {"output": {"score": [8, 7]}}}',
    "line break in a string": '{"score": [8, 7], "reasoning": "one\nscore: [2, 2]"}',
    "byte order mark and tabs": '\ufeff{\t"score":\t[8,\t7]}',
}

REFUSED = {
    "nothing": ("", "empty"),
    "spaces": (" \n", "empty"),
    "not text": (None, "empty"),
    "refusal": ("I'm sorry, but I can't assess these images.", "no score field"),
    "unanswered template": ('{"score": [...], "reasoning": "..."}', "1 long"),
    "placeholders only": ('"score": [score1, score2]', "not a number"),
    "one score": ('{"score": [8]}', "1 long"),
    "a bare score": ('{"score": 8}', "no score field"),
    "three scores": ('{"score": [8, 7, 9]}', "3 long"),
    "two pairs": ('{"score": [[8, 7], [6, 5]]}', "4 long"),
    "empty list": ('{"score": []}', "1 long"),
    "numbers in words, in JSON": ('{"score": ["eight", "seven"]}', "not a number"),
    "a key twice": ('{"score": [8, 7], "score": [3, 2]}', "different scores"),
    "true and false": ('{"score": [true, 7]}', "not a number"),
    "named decimal commas": ("score1: 7,5\nscore2: 6,5", "not a number"),
    "spelled decimal commas": ("editing_success: 7,5, minimal_editing: 6", "not a number"),
    "decimal commas": ('{"score": [7,5, 8,0]}', "4 long"),
    "above ten": ('{"score": [80, 70]}', "not between 0 and 10"),
    "just above ten": ('{"score": [10.01, 7]}', "not between 0 and 10"),
    "negative": ('{"score": [-1, 7]}', "not between 0 and 10"),
    "out of five": ('{"score": ["4/5", "3/5"]}', "not a number"),
    "not a number": ('{"score": [NaN, 7]}', "not a number"),
    "null": ('{"score": [null, 7]}', "not a number"),
    "words": ('{"score": [eight, seven]}', "not a number"),
    "remarks inside": ('{"score": [8 (good), 7]}', "not a number"),
    "a range": ('{"score": [7-8, 7]}', "not a number"),
    "superscript": ('{"score": [8², 7]}', "not a number"),
    "cut off in the list": ('{"score": [8, 1', "not closed"),
    "wrong closing bracket": ('{"score": [8, 7}', "not closed"),
    "crossed brackets": ('{"score": [8, 7)}', "not closed"),
    "no comma": ('{"score": [8 7]}', "1 long"),
    "two different answers": ('{"score": [8, 7]} or rather {"score": [3, 2]}', "different scores"),
    "a second, malformed answer": ('{"score": [8, 7]} {"score": [8, 7, 1]}', "3 long"),
    "a list in prose": ("The object at [3, 4] has moved.", "no score field"),
    "a list at the start of prose": ("[3, 4] is where the object went.", "no score field"),
    "another key": ('{"underscore": [8, 7], "scoreboard": [6, 5]}', "no score field"),
    "one named score": ('{"score1": 8}', "not stated once each"),
    "a named score in words": ('{"score1": 8, "score2": high}', "not a number"),
}


@pytest.mark.parametrize("name", READ)
def test_shapes_that_are_read(name):
    reading = read_answer(READ[name])
    assert reading.scores == (8.0, 7.0), reading.reason
    assert reading.reason is None
    assert parse_scores(READ[name]).score == 7


@pytest.mark.parametrize("name", REFUSED)
def test_shapes_that_are_refused(name):
    text, reason = REFUSED[name]
    reading = read_answer(text)
    assert reading.scores is None
    assert reason in reading.reason
    assert parse_scores(text) is None


def test_the_ends_of_the_range_are_scores():
    assert parse_scores('{"score": [0, 10]}') == Scores(0, 10)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 10).map(lambda value: round(value, 2)),
    st.integers(0, 10),
    st.sampled_from(
        ['{{"score": [{}, {}], "reasoning": "x"}}', "score = ({}, {})", '```json\n"score" : [["{}"], ["{}"]]']
    ),
    st.text("abc xyz.,!?\n", max_size=30),
)
def test_any_valid_scores_are_read_exactly(first, second, template, prose):
    assert parse_scores(f"{prose}\n{template.format(first, second)}") == (first, second)


@settings(max_examples=300, deadline=None)
@given(
    st.one_of(
        st.text(),
        st.text("score12 :=[](){}\"'`,.-+/0789\n\\", max_size=60),
        st.lists(
            st.sampled_from([*"[]()'\",:=", "score", "score1", "score2", "8", "10", "11", ".5", " "]), max_size=20
        ).map("".join),
    )
)
@example('score: [8, 7]" score: [')
@example("score:[]]")
@example("score:([)]")
def test_no_text_raises_and_no_score_is_made_up(text):
    reading = read_answer(text)
    if reading.scores is None:
        assert reading.reason
        return
    assert len(reading.scores) == 2
    stated = {float(number) for number in re.findall(r"[0-9]+\.?[0-9]*|\.[0-9]+", text)}
    assert all(0 <= score <= 10 and score in stated for score in reading.scores)
    assert reading.reason is None


def test_long_answers_are_read_in_little_time():
    for filler in ("score: [", "[" * 5, "` ", '" ', "score1: 8,", "(" * 3):
        read_answer(filler * 20_000)
    assert parse_scores("word " * 20_000 + '{"score": [8, 7]}') == (8, 7)


@pytest.mark.parametrize("name", ["kit", "paper"])
def test_a_prompt_is_no_answer_to_itself(name):
    prompt = load_prompt(name, "editing").fill("open the {red} drawer")
    assert "open the {red} drawer" in prompt
    assert parse_scores(prompt) is None
    assert parse_scores(prompt + '\n{"score": [8, 7]}') == (8, 7)
