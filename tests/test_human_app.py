"""The human study's pages, in process and over a real server with fifty annotators at once."""

from __future__ import annotations

import json
import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest
import toy_study

pytest.importorskip("starlette", reason="the human study needs starlette")

from human_site import HOSTILE, Site, ranked

from visdyn.human_study.plan import plan
from visdyn.human_study.study import load_study
from visdyn.human_study.study_store import Choice, Store


@pytest.fixture
def site(tmp_path):
    return Site(toy_study.best_worst(tmp_path / "study", items_per_subset=2))


@pytest.fixture
def ada(site):
    client = site.client()
    assert client.join("Ada").status_code == 303
    return client


def test_a_session_from_consent_to_thanks(site, ada):
    for page in range(1, 5):
        assert ada.get("/task").headers["location"] == f"/task/{page}"
        assert ada.post(f"/task/{page}", ranked(2, 0)).headers["location"] == "/task"
    assert "Thank you, Ada" in ada.get("/task").text
    tasks = {task.key: task for task in plan(site.study, 1, site.store.draw)}
    for answer in site.store.answers():
        shown = tasks[answer.task].shown
        assert answer.choice == Choice(shown[2], shown[0])


def test_no_session_without_consent(site):
    client = site.client()
    form = re.search(r'name="form" value="([^"]+)"', client.get("/").text)[1]
    refused = client.post("/start", {"form": form, "name": HOSTILE})
    assert refused.status_code == 422
    assert "Please agree first" in refused.text
    assert client.get("/task/1").status_code == 401
    assert client.post("/task/1", ranked()).status_code == 401
    assert site.store.annotators() == []


def test_the_consent_form_sent_twice_is_one_annotator(site):
    first, second = site.client(), site.client()
    form = {"form": "the-same-form-in-two-requests", "agree": "yes", "name": ""}
    first.post("/start", form)
    second.post("/start", form)
    first.post("/start", form | {"form": "sent-again-with-the-cookie"})
    assert len(site.store.annotators()) == 1
    assert first.cookies == second.cookies


def test_a_page_sent_twice_is_one_answer(site, ada):
    for _ in range(2):
        assert ada.post("/task/1", ranked()).status_code == 303
    assert [answer.revision for answer in site.store.answers()] == [1]


def test_a_stale_page_is_told_and_a_change_is_taken(site, ada):
    ada.post("/task/1", ranked(0, 1))
    stale = ada.post("/task/1", ranked(3, 2))
    assert stale.status_code == 409
    assert "sent before with other choices" in stale.text
    page = ada.get("/task/1").text
    assert re.search(r'id="best\.overall\.0"[^>]*checked', page)
    assert 'name="seen.overall" value="1"' in page
    assert ada.post("/task/1", ranked(3, 2, seen=1)).status_code == 303
    assert site.store.answers()[0].choice.best == plan(site.study, 1, site.store.draw)[0].shown[3]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seen.overall": "0"}, "answer every question"),
        ({"best.overall": "0"}, "answer every question"),
        (ranked(1, 1), "cannot be the same"),
        (ranked(4, 0), "answer every question"),
        (ranked("Zebra-Net", 0), "answer every question"),
        (ranked("-1", 0), "answer every question"),
        (ranked(0, 1, "x"), "not the one this page shows"),
    ],
)
def test_a_wrong_submission_is_told_and_stores_nothing(site, ada, fields, words):
    response = ada.post("/task/1", fields)
    assert response.status_code == 422
    assert words in response.text
    assert site.store.answers() == []


def test_what_was_chosen_stays_when_the_rest_is_missing(ada):
    page = ada.post("/task/1", {"best.overall": "2"}).text
    assert re.search(r'id="best\.overall\.2"[^>]*checked', page)
    assert page.count("checked") == 1


def test_a_session_resumes_by_link_in_another_browser(site, ada):
    ada.post("/task/1", ranked())
    link = re.search(r'value="(http://127\.0\.0\.1:8765)(/resume/\w+)"', ada.get("/pause").text)[2]
    other = site.client()
    assert other.get(link).headers["location"] == "/task"
    assert other.get("/task").headers["location"] == "/task/2"
    assert other.get("/resume/guess").status_code == 404
    other.post("/leave", {})
    assert other.get("/task").status_code == 401


def test_each_criterion_is_asked_where_the_study_says_so(tmp_path):
    site = Site(toy_study.best_worst(tmp_path / "study", ask="each"))
    client = site.client()
    client.join()
    fields = {}
    for key in ("realism", "instruction"):
        fields |= {f"best.{key}": "0", f"worst.{key}": "1", f"seen.{key}": "0"}
    assert client.post("/task/1", fields).status_code == 422
    assert site.store.answers() == []
    fields |= {"best.over_editing": "2", "worst.over_editing": "3", "seen.over_editing": "0"}
    assert client.post("/task/1", fields).status_code == 303
    assert [answer.criterion for answer in site.store.answers()] == ["instruction", "over_editing", "realism"]


def test_a_pairwise_session(tmp_path):
    site = Site(toy_study.pairwise(tmp_path / "study", count=2))
    client = site.client()
    client.join()
    page = client.get("/task/1").text
    assert page.count("<img") == 5
    assert "to undo it: close" in page
    client.post("/task/1", {"prefer.overall": "1", "seen.overall": "0"})
    client.post("/task/2", {"prefer.overall": "none", "seen.overall": "0"})
    first, second = plan(site.study, 1, site.store.draw)
    answers = {answer.task: answer.choice for answer in site.store.answers()}
    assert answers == {first.key: Choice(first.shown[1], first.shown[0]), second.key: Choice("", "")}
    assert re.search(r'id="prefer\.overall\.none"[^>]*checked', client.get("/task/2").text)


# ---------------------------------------------------------------- blindness
@pytest.mark.slow
def test_fifty_annotators_at_once_lose_nothing(tmp_path):
    """They join, answer each page twice at once, and the server is killed at the end: all answers are there."""
    folder = toy_study.best_worst(tmp_path / "study", items_per_subset=2)
    with toy_study.serving(folder) as port, ThreadPoolExecutor(50) as pool:
        given = dict(pool.map(lambda number: _annotate(port, number), range(50)))
    answers = Store(folder / "answers.sqlite", load_study(folder).fingerprint).answers()
    assert len(answers) == 200
    assert {answer.annotator for answer in answers} == set(range(1, 51))
    assert {answer.revision for answer in answers} == {1}
    study = load_study(folder)
    store = Store(folder / "answers.sqlite", study.fingerprint)
    for annotator in store.annotators():
        stored = {answer.task: answer.choice for answer in answers if answer.annotator == annotator.number}
        for task, (best, worst) in zip(plan(study, annotator.number, store.draw), given[annotator.name], strict=True):
            assert stored[task.key] == Choice(task.shown[best], task.shown[worst])
    with closing(sqlite3.connect(folder / "answers.sqlite")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def _annotate(port: int, number: int) -> tuple[str, list[tuple[int, int]]]:
    browser, name = toy_study.Browser(port), f"annotator {number}"
    browser.join(name)
    twin = toy_study.Browser(port)
    twin.cookies = browser.cookies
    chosen = []
    for page in range(1, 5):
        best = (number + page) % 4
        chosen.append((best, (best + 1 + number % 3) % 4))
        with ThreadPoolExecutor(2) as both:
            sent = [both.submit(each.send, "POST", f"/task/{page}", ranked(*chosen[-1])) for each in (browser, twin)]
        for result in sent:
            status, body, _ = result.result()
            assert status == 303, body
    return name, chosen


@pytest.mark.slow
def test_a_killed_server_goes_on_and_exports(tmp_path):
    folder = toy_study.best_worst(tmp_path / "study", items_per_subset=2)
    with toy_study.serving(folder) as port:
        browser = toy_study.Browser(port)
        browser.join("Ada")
        browser.send("POST", "/task/1", ranked())
        # A body that is never read to its end must not hold the server, nor a wrong request line.
        browser.connection.close()
        status, body, _ = toy_study.Browser(port).send("POST", "/start", {"name": "x" * 2_000_000})
        assert (status, "larger than 16 kB" in body) == (413, True)
    with toy_study.serving(folder) as port:
        again = toy_study.Browser(port)
        again.cookies = browser.cookies
        assert again.send("GET", "/task")[2] == "/task/2"
        again.send("POST", "/task/2", ranked())
    command = [sys.executable, "-m", "visdyn", "study", "serve", str(folder)]
    done = subprocess.run([*command, "--export", str(tmp_path / "a.csv")], capture_output=True, text=True, check=True)
    assert "2 answers written" in done.stdout
    assert len((tmp_path / "a.csv").read_text().splitlines()) == 3
    refused = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True, env=_no_token())
    assert (refused.returncode, "needs an access token" in refused.stderr) == (2, True)
    lines = [json.loads(line) for line in (folder / "items.jsonl").read_text().splitlines()]
    (folder / "items.jsonl").write_text("".join(json.dumps(line | {"prompt": "another"}) + "\n" for line in lines))
    changed = subprocess.run(command, capture_output=True, text=True)
    assert (changed.returncode, "another study" in changed.stderr) == (2, True)


def _no_token() -> dict:
    return {key: value for key, value in os.environ.items() if key != "VISDYN_STUDY_TOKEN"}
