"""Parameters that a server does not know: left out where nobody asked for them, named where somebody did."""

from __future__ import annotations

import json

import numpy as np
import pytest
from fake_endpoint import completion, endpoint, picture

from visdyn.endpoint.client import EndpointStoppedError, RequestRefusedError
from visdyn.endpoint.replies import Question, ReplyStore, refused_field
from visdyn.evaluation.benches.bench import AURORA_BENCH
from visdyn.evaluation.judges.run import judge_all
from visdyn.evaluation.systems.outputs import FORWARD, SystemImages
from visdyn.params.evaluation import JudgeEntry
from visdyn.trajectory import Trajectory

ITEMS = 4


def openai(param, message, code="unsupported_parameter"):
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return 400, {}, json.dumps({"error": error})


def gemini(message):
    return 400, {}, json.dumps([{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}])


NO_TOKENS = openai("max_tokens", "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
                   "'max_completion_tokens' instead.")  # fmt: skip
NO_TEMPERATURE = openai("temperature", "Unsupported value: 'temperature' does not support 0.0 with this model. Only "
                        "the default (1) value is supported.", "unsupported_value")  # fmt: skip
NO_SEED = gemini('Invalid JSON payload received. Unknown name "seed": Cannot find field.')
NO_SCHEMA = openai("response_format", "Invalid parameter: 'response_format' of type 'json_schema' is not supported "
                   "with this model.", None)  # fmt: skip
SCHEMA_KEY = gemini('Invalid JSON payload received. Unknown name "additionalProperties" at '
                    "'generation_config.response_schema': Cannot find field.")  # fmt: skip
STRICT = 422, {}, json.dumps({"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"],
                                         "msg": "Extra inputs are not permitted", "input": 0}]})  # fmt: skip
PLAIN = 400, {}, "Unsupported param: response_format"


def refusing(**answers):
    """Return a script of a server that refuses these parameters, in this order, and else answers."""

    def script(name, nth, repeat):
        sent = script.server.payloads[-1]
        refused = next((answer for name, answer in answers.items() if name in sent), None)
        return refused or completion('{"score": [8, 7]}', prompt_tokens=9, completion_tokens=9)

    return script


def judge(serve, tmp_path, script, **changes):
    script.server = server = serve(script)
    settings = {"prompt": "kit", "concurrency": 1, "backoff_s": 0.01, "max_attempts": 2} | changes
    entry = JudgeEntry("endpoint", "strict", "o9", server.url, "JUDGE_KEY", **settings)
    items = [Trajectory(picture(n), f"open item {n}", None, "something", str(n)) for n in range(ITEMS)]
    systems = [SystemImages("aurora", "ours", 0, "trained", "m", {FORWARD: [picture(9 + n) for n in range(ITEMS)]})]
    scores, runs = judge_all([entry], AURORA_BENCH, items, systems, tmp_path)
    fields = [{name: value for name, value in one.items() if name not in ("model", "messages")}
              for one in server.payloads]  # fmt: skip
    return scores, runs, fields


def test_an_o_series_judge_is_asked_without_what_it_refuses_said_once_and_recorded(serve, tmp_path, capsys):
    script = refusing(max_tokens=NO_TOKENS, temperature=NO_TEMPERATURE)
    scores, runs, sent = judge(serve, tmp_path, script, prompt="paper")
    assert scores.query("criterion == 'score'")["value"].tolist() == [7.0] * ITEMS
    assert sent[0] == {"max_tokens": 400, "temperature": 0.0, "seed": 0}
    assert sent[1] == {"max_completion_tokens": 400, "temperature": 0.0, "seed": 0}
    assert sent[2:] == [{"max_completion_tokens": 400, "seed": 0}] * ITEMS
    said = capsys.readouterr().out
    assert said.count("o9 refuses the parameter max_tokens: it is sent as max_completion_tokens") == 1
    assert said.count("o9 refuses the parameter temperature: it is left out (400: Unsupported value") == 1
    note = "the server refuses max_tokens (sent as max_completion_tokens), temperature"
    assert runs["note"].tolist() == [note]
    store = ReplyStore(tmp_path / "strict")
    kept = [json.loads(value) for _, value in store.store.items()]
    assert [one["left_out"] for one in kept] == [["max_tokens (sent as max_completion_tokens)", "temperature"]] * ITEMS
    again, reruns, none = judge(serve, tmp_path, script, prompt="paper")
    assert none == []  # kept under what was asked for: nothing is paid for twice
    assert again.equals(scores)
    assert reruns["note"].tolist() == [note]


@pytest.mark.parametrize("answer", [NO_SCHEMA, SCHEMA_KEY, PLAIN])
def test_structured_output_falls_back_to_words_where_the_server_has_none(serve, tmp_path, answer):
    scores, runs, sent = judge(serve, tmp_path, refusing(response_format=answer))
    assert ["response_format" in one for one in sent] == [True] + [False] * ITEMS
    assert scores["value"].notna().all()
    assert runs["note"].item() == "the server refuses response_format"


@pytest.mark.parametrize("answer", [NO_SEED, STRICT])
def test_geminis_endpoint_is_asked_without_a_seed(serve, tmp_path, answer):
    scores, _, sent = judge(serve, tmp_path, refusing(seed=answer))
    assert ["seed" in one for one in sent] == [True] + [False] * ITEMS
    assert scores["value"].notna().all()


REFUSED = {
    "temperature": ({"temperature": 0.0}, NO_TEMPERATURE, "write sampling: {temperature: null} for it"),
    "seed": ({"seed": 3}, NO_SEED, "write sampling: {seed: null} for it"),
    "max_tokens": ({"max_tokens": 9}, NO_TOKENS, "sampling: {max_tokens: null, max_completion_tokens: 9} for it"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_the_user_asked_for_is_never_dropped_but_named_in_one_sentence(serve, tmp_path, name):
    sampling, answer, advice = REFUSED[name]
    scores, runs, sent = judge(serve, tmp_path, refusing(**{name: answer}), prompt="paper", sampling=sampling)
    assert len(sent) == 1  # no second request would do better
    assert scores.empty
    note = runs["note"].item()
    assert f"refuses the parameter {name} for model o9" in note
    assert advice in note


def test_a_blocked_item_is_an_outcome_kept_and_not_asked_again(serve, tmp_path):
    flagged = {"error": {"code": 403, "message": "flagged", "metadata": {"flagged_input": "x"}}}
    blocked = {
        "1": (200, {}, '{"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 0}}'),
        "2": completion(None, "content_filter"),
        "3": (403, {}, json.dumps(flagged)),
    }
    seen = []

    def script(name, nth, repeat):
        seen.append(name)
        return blocked.get(name) or completion('{"score": [8, 7]}')

    scores, runs, _ = judge(serve, tmp_path, script)
    judge(serve, tmp_path, script)
    assert sorted(seen) == ["0", "1", "2", "3"]
    values = scores.query("criterion == 'score'").set_index("id")["value"]
    assert values["0"] == 7
    assert values[["1", "2", "3"]].isna().all()
    assert runs[["asked", "invalid", "refused", "failed"]].to_numpy().tolist() == [[4, 0, 3, 0]]
    assert runs["note"].item() == "refused: blocked by the server (no choices)"


def test_an_item_that_is_refused_for_itself_changes_no_parameter(serve, tmp_path):
    odd = openai("messages", "Unsupported image in messages[0]; sent with 'seed' 0")
    scores, runs, sent = judge(serve, tmp_path, lambda name, nth, repeat: odd if name == "1" else completion("[8, 7]"))
    assert all("seed" in one for one in sent)
    assert scores["value"].isna().sum() == 3
    assert runs["failed"].tolist() == [1]
    assert "failed: the endpoint refuses this request (400: Unsupported image" in runs["note"].item()


def test_only_a_parameter_that_was_sent_is_found_in_an_error():
    sent = {"seed", "temperature", "max_tokens"}
    for (_, _, text), name in ((NO_TOKENS, "max_tokens"), (NO_TEMPERATURE, "temperature"), (NO_SEED, "seed"),
                               (STRICT, "seed"), (NO_SCHEMA, None), (SCHEMA_KEY, None), (PLAIN, None)):  # fmt: skip
        assert refused_field(text, sent) == name
    for text in ("", "{}", "unsupported image", '{"error": {"message": "max_tokens is too large: 9", "param": '
                 '"max_tokens"}}', "the temperature of 'seed' is high"):  # fmt: skip
        assert refused_field(text, sent) is None


def test_many_threads_learn_the_same(serve):
    script = refusing(max_tokens=NO_TOKENS, temperature=NO_TEMPERATURE, max_completion_tokens=openai(
        "max_completion_tokens", "Unsupported parameter: 'max_completion_tokens'"))  # fmt: skip
    script.server = server = serve(script)
    sampling = {"max_tokens": 5, "temperature": 0.0}
    with endpoint(server, sampling=sampling, droppable=frozenset(sampling)) as one:
        reply = one.ask(Question((picture(1),), "item 1"))
    assert reply.left_out == ("max_tokens", "temperature")
    with endpoint(server, sampling=sampling) as one, pytest.raises(EndpointStoppedError, match="max_tokens"):
        one.ask(Question((picture(1),), "item 1"))
    silent = serve(lambda *_: (400, {}, "no"))
    with endpoint(silent) as one, pytest.raises(RequestRefusedError, match="400: no"):
        one.ask(Question((np.zeros((2, 2, 3), np.uint8),), "item 1"))
