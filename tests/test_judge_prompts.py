"""What a judge is asked, to the byte: prompt files, the paper's printed words, a public repository's, a user's own."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import pytest
from fake_endpoint import completion, picture

from visdyn.endpoint.replies import _data_url, load
from visdyn.evaluation.benches.bench import AURORA_BENCH, DOUNDO_BENCH
from visdyn.evaluation.judges import judge_prompts
from visdyn.evaluation.judges.judge_prompts import PromptError, load_prompt
from visdyn.evaluation.judges.run import judge_all
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.params import load_params
from visdyn.params.evaluation import JudgeEntry
from visdyn.paths import repository_root, shared_data
from visdyn.trajectory import Trajectory

SOURCE, EDITED = picture(1), picture(2)
# Bootstrapping, Figure 10, in the earlier version's wording (appendix H).
PRINTED = """\
You are a professional digital artist. You will have to evaluate the effectiveness of the AI-generated image(s) based \
on the given rules.

You will have to give your output in a valid way of a Python dictionary format (Keep your reasoning concise and short.):

{"score": [...], "reasoning": "..." }

and don't output anything else. Two images will be provided:
- The first being the original AI-generated image
- The second being an edited version of the first.

The objective is to evaluate how successfully the editing instruction has been executed in the second image. Note that \
sometimes the two images might look identical due to a failure in image editing. From a scale of 0 to 10:

- A score from 0 to 10 will be given based on the success of the editing.
  - 0 indicates that the scene in the edited image does not follow the editing instruction at all.
  - 10 indicates that the scene in the edited image follows the editing instruction text perfectly.
  - If the object in the instruction is not present in the original image at all, the score will be 0.
- A second score from 0 to 10 will rate the degree of minimal editing in the second image.
  - 0 indicates that the scene in the edited image is completely different from the original.
  - 10 indicates that the edited image can be recognised as a minimally edited yet effective version of the original.

Put the score in a list such that: output score = [score1, score2], where score1 evaluates the editing success and \
score2 evaluates the degree of the minimal editing.
Editing instruction: open item {1}"""


def url(pixels):
    return _data_url(load(pixels))


def asked_bytes(serve, tmp_path, **changes):
    """Return the one request that a judge of these settings sends about one AURORA-Bench item."""
    server = serve(lambda name, nth, repeat: completion('{"score": [8, 7]}'))
    entry = {"kind": "endpoint", "name": "GPT-4o", "model": "gpt-4o-2024-11-20", "base_url": server.url,
             "key_variable": "JUDGE_KEY"} | changes  # fmt: skip
    items = [Trajectory(SOURCE, "open item {1}", None, "something", "1")]
    systems = [SystemImages("aurora", "ours", 0, "trained", "m", {FORWARD: [EDITED]})]
    scores, runs = judge_all([JudgeEntry(**entry)], AURORA_BENCH, items, systems, tmp_path)
    return server.bodies, scores, runs


def test_the_request_of_the_papers_judge_is_the_printed_prompt_to_the_byte(serve, tmp_path):
    bodies, scores, runs = asked_bytes(serve, tmp_path, prompt="paper")
    text = json.dumps(PRINTED)
    assert bodies == [(
        '{"model": "gpt-4o-2024-11-20", "messages": [{"role": "user", "content": ['
        f'{{"type": "image_url", "image_url": {{"url": "{url(SOURCE)}"}}}}, '
        f'{{"type": "image_url", "image_url": {{"url": "{url(EDITED)}"}}}}, '
        f'{{"type": "text", "text": {text}}}]}}], "max_tokens": 400, "temperature": 0.0, "seed": 0}}'
    ).encode()]  # fmt: skip
    assert scores["value"].tolist() == [8, 7, 7]
    version = load_prompt("paper", "editing").full_version
    for table in (scores, runs):
        assert set(table["judge_prompt"]) == {"paper"}
        assert set(table["prompt_version"]) == {version}
    # The default is the paper's own question, where there is one.
    assert asked_bytes(serve, tmp_path / "again")[0] == bodies
    assert (AURORA_BENCH.default_prompt, DOUNDO_BENCH.default_prompt) == ("paper", "kit")


def test_the_paper_prints_these_words():
    if (shared := shared_data()) is None:
        pytest.skip("needs the papers' text in the shared folder")
    text = (shared / "papers/bootstrapping-dynamics-v1.txt").read_text()
    start = text.index("You are a professional digital artist")
    printed = text[start : text.index("{instruction}", start)]
    assert _plain(printed.replace("{{", "{").replace("}}", "}")) == _plain(PRINTED.partition("open item")[0])


def _plain(text: str) -> list[str]:
    return re.sub(r"(?m)^\s*[•–-] ", "", text.replace("’", "'")).split()


@pytest.mark.parametrize("profile", ["paper", "paper_liquid"])
def test_the_papers_profiles_ask_the_papers_question(profile):
    params = load_params(repository_root() / "profiles" / profile)
    [gpt] = [judge for judge in params.evaluation.judges if judge.kind == "endpoint"]
    [gemini] = [judge for judge in params.evaluation_doundo.judges if judge.kind == "endpoint"]
    assert (gpt.model, gpt.prompt) == ("gpt-4o-2024-11-20", "paper")
    assert gemini.prompt == "kit"  # Do-Undo prints none
    assert gemini.sampling["seed"] is None  # Gemini's endpoint refuses the field


def test_the_kits_prompt_asks_for_json_alone_and_another_may_not(serve, tmp_path):
    [body], _, _ = asked_bytes(serve, tmp_path, prompt="kit")
    schema = json.loads(body)["response_format"]["json_schema"]
    assert schema["strict"] is True
    assert list(schema["schema"]["properties"]) == schema["schema"]["required"] == ["score", "reasoning"]
    [free], _, _ = asked_bytes(serve, tmp_path / "free", prompt="kit", sampling={"response_format": None})
    assert "response_format" not in json.loads(free)


def test_sampling_is_a_free_mapping_and_null_leaves_a_field_out(serve, tmp_path):
    sampling = {"max_completion_tokens": 900, "temperature": None, "seed": None, "reasoning_effort": "low"}
    [body], _, _ = asked_bytes(serve, tmp_path, prompt="paper", sampling=sampling)
    sent = {name: value for name, value in json.loads(body).items() if name not in ("model", "messages")}
    assert sent == {"max_completion_tokens": 900, "reasoning_effort": "low"}
    bodies, _, _ = asked_bytes(serve, tmp_path / "2", prompt="paper", sampling={"seed": 5, "top_p": 0.9}, repeats=2)
    assert sorted((one["seed"], one["top_p"]) for one in map(json.loads, bodies)) == [(5, 0.9), (6, 0.9)]
    local = [JudgeEntry("transformers", model="m", sampling={"top_p": 0.9})]
    items = [Trajectory(SOURCE, "open it", None, "something", "1")]
    systems = [SystemImages("aurora", "ours", 0, "trained", "m", {FORWARD: [EDITED]})]
    with pytest.raises(ValueError, match="takes max_tokens, temperature, seed, not top_p"):
        judge_all(local, AURORA_BENCH, items, systems, tmp_path)


# ------------------------------------------------------------------------------------- words of another repository


CLONED = 'first = """Text with "quotes".\n{\n"score" : [...]\n}"""\nsecond = "Do: <instruction>\\n"\nother = 1 / 0\n'


@pytest.fixture
def viescore(tmp_path, monkeypatch):
    """A stand-in for the clone, whose words are pinned in a copy of the kit's file; the real ones are not here."""
    (tmp_path / "clone/viescore").mkdir(parents=True)
    (tmp_path / "clone/viescore/vie_prompts.py").write_text(CLONED)
    text = (judge_prompts.FOLDER / "editing_viescore.md").read_text()
    words = 'Text with "quotes".\n{\n"score" : [...]\n}\nDo: <instruction>\n'
    text = re.sub(r"constants: .*", "constants: [first, second]", text)
    text = re.sub(r"sha256: .*", f"sha256: {hashlib.sha256(words.encode()).hexdigest()}", text)
    folder = tmp_path / "prompts"
    folder.mkdir()
    (folder / "editing_viescore.md").write_text(text)
    monkeypatch.setattr(judge_prompts, "FOLDER", folder)
    return tmp_path / "clone"


def test_viescores_words_come_from_your_clone_as_its_class_joins_them(serve, tmp_path, viescore):
    [body], scores, _ = asked_bytes(serve, tmp_path / "r", prompt="viescore", prompt_clone=str(viescore))
    content = json.loads(body)["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "image_url"]  # the text first, as it sends it
    assert content[0]["text"] == 'Text with "quotes".\n{\n"score" : [...]\n}\nDo: open item {1}\n'
    assert set(scores["judge_prompt"]) == {"viescore"}


def test_without_the_clone_the_judge_is_left_out_with_the_command(serve, tmp_path, viescore):
    bodies, scores, runs = asked_bytes(serve, tmp_path / "r", prompt="viescore")
    assert (bodies, len(scores)) == ([], 0)
    assert "git clone https://github.com/TIGER-AI-Lab/VIEScore" in runs["note"].item()
    (viescore / "viescore/vie_prompts.py").write_text(CLONED.replace("Text", "Words"))
    with pytest.raises(PromptError, match="other words than the pinned ones"):
        load_prompt("viescore", "editing", viescore)
    with pytest.raises(PromptError, match="cannot be read"):
        load_prompt("viescore", "editing", viescore / "elsewhere")


# --------------------------------------------------------------------------------------------------- a user's own


OWN = "---\nname: mine\nversion: 3\nasks: doundo\nsource: me\ndirections: {forward: Done., reverse: Undone.}\n---\n"


def test_any_file_is_a_prompt_and_other_words_are_another_version(tmp_path, monkeypatch):
    path = tmp_path / "mine.md"
    path.write_text(OWN + "{direction} Is {this} it: {instruction}?\n")
    mine = load_prompt(str(path), "doundo")
    assert (mine.name, mine.version, mine.structured, mine.text_first) == ("mine", "3", False, False)
    assert mine.fill("open {direction}", "reverse") == "Undone. Is {this} it: open {direction}?"
    path.write_text(OWN + "{direction} Is {this} really it: {instruction}?\n")
    assert load_prompt(str(path), "doundo").full_version != mine.full_version
    monkeypatch.setenv("PROMPTS", str(tmp_path))
    assert load_prompt("$PROMPTS/mine.md", "doundo").name == "mine"


BAD = {
    "no head": ("Just text, {instruction}", "begins with a head"),
    "no YAML": ("---\n: : [\n---\n{instruction}", "begins with a head"),
    "no version": (OWN.replace("version: 3\n", "") + "{instruction} {direction}", "lacks version"),
    "a mistyped key": (
        OWN.replace("source", "sourec: x\nsource") + "{instruction} {direction}",
        "unknown key 'sourec'",
    ),
    "other scores": (OWN.replace("doundo", "editing") + "{instruction} {direction}", "asks for 'editing'"),
    "the kit's name": (OWN.replace("mine", "kit") + "{instruction} {direction}", "name of a prompt of the kit"),
    "no place for the instruction": (OWN + "{direction}", "no {instruction}"),
    "directions without a place": (OWN + "{instruction}", "{direction}"),
    "a place without directions": (re.sub("directions.*\n", "", OWN) + "{instruction} {direction}", "{direction}"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_file_that_is_no_prompt_is_refused_in_words(name, tmp_path):
    text, reason = BAD[name]
    path = tmp_path / "bad.md"
    path.write_text(text)
    with pytest.raises(PromptError, match=re.escape(reason)) as caught:
        load_prompt(str(path), "doundo")
    assert "bad.md" in str(caught.value)


def test_a_name_that_is_no_prompt_lists_those_that_are():
    with pytest.raises(PromptError, match="choose one of kit, paper, viescore, or give the path"):
        load_prompt("papper", "editing")
    with pytest.raises(PromptError, match="choose one of kit, or"):
        load_prompt("paper", "doundo")  # Do-Undo prints no prompt
    with pytest.raises(PromptError, match="NO_SUCH_VARIABLE"):
        load_prompt("$NO_SUCH_VARIABLE/x.md", "editing")
    assert np.unique([load_prompt(name, "editing").full_version for name in ("kit", "paper")]).size == 2
