"""The human study's pages, in process and over a real server with fifty annotators at once."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import httpx
import pytest
import toy_study
from PIL import Image, PngImagePlugin

pytest.importorskip("starlette", reason="the human study needs starlette")

from visdyn.evaluation.human.app import create_app
from visdyn.evaluation.human.plan import plan
from visdyn.evaluation.human.security import MAX_BODY, check_token
from visdyn.evaluation.human.store import Choice, Store
from visdyn.evaluation.human.study import load_study

TOKEN = "a-token-of-more-than-sixteen"
HOSTILE = "<script>alert(1)</script>'\"&"


class Client:
    """An annotator's browser in process: cookies, forms, no redirects of its own."""

    def __init__(self, app, host: str = "127.0.0.1:8765") -> None:
        self.app, self.base = app, f"http://{host}"
        self.cookies: dict[str, str] = {}

    def send(self, method: str, path: str, headers: dict | None = None, **options) -> httpx.Response:
        jar = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        response = asyncio.run(self._sent(method, path, {"Cookie": jar} | (headers or {}), options))
        for line in response.headers.get_list("set-cookie"):
            assert "SameSite=lax" in line
            assert "HttpOnly" in line or "Max-Age=0" in line
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value
        self.cookies = {name: value for name, value in self.cookies.items() if value not in ("", '""')}
        return response

    async def _sent(self, method: str, path: str, headers: dict, options: dict) -> httpx.Response:
        transport = httpx.ASGITransport(self.app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url=self.base) as client:
            return await client.request(method, path, headers=headers, **options)

    def get(self, path: str, **options) -> httpx.Response:
        return self.send("GET", path, **options)

    def post(self, path: str, data: dict, **options) -> httpx.Response:
        return self.send("POST", path, data=data, **options)

    def join(self, name: str = "") -> httpx.Response:
        form = re.search(r'name="form" value="([^"]+)"', self.get("/").text)[1]
        return self.post("/start", {"form": form, "agree": "yes", "name": name})


class Site:
    """A study served in process."""

    def __init__(self, folder, token=None, local=True) -> None:
        self.study = load_study(folder)
        self.store = Store(folder / "answers.sqlite", self.study.fingerprint)
        self.app = create_app(self.study, self.store, token, local)

    def client(self, **options) -> Client:
        return Client(self.app, **options)


@pytest.fixture
def site(tmp_path):
    return Site(toy_study.best_worst(tmp_path / "study", items_per_subset=2))


@pytest.fixture
def ada(site):
    client = site.client()
    assert client.join("Ada").status_code == 303
    return client


def _best(best=0, worst=1, seen=0) -> dict:
    return {"best.overall": str(best), "worst.overall": str(worst), "seen.overall": str(seen)}


# ---------------------------------------------------------------- a session
def test_a_session_from_consent_to_thanks(site, ada):
    for page in range(1, 5):
        assert ada.get("/task").headers["location"] == f"/task/{page}"
        assert ada.post(f"/task/{page}", _best(2, 0)).headers["location"] == "/task"
    assert "Thank you, Ada" in ada.get("/task").text
    tasks = {task.key: task for task in plan(site.study, 1)}
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
    assert client.post("/task/1", _best()).status_code == 401
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
        assert ada.post("/task/1", _best()).status_code == 303
    assert [answer.revision for answer in site.store.answers()] == [1]


def test_a_stale_page_is_told_and_a_change_is_taken(site, ada):
    ada.post("/task/1", _best(0, 1))
    stale = ada.post("/task/1", _best(3, 2))
    assert stale.status_code == 409
    assert "sent before with other choices" in stale.text
    page = ada.get("/task/1").text
    assert re.search(r'id="best\.overall\.0"[^>]*checked', page)
    assert 'name="seen.overall" value="1"' in page
    assert ada.post("/task/1", _best(3, 2, seen=1)).status_code == 303
    assert site.store.answers()[0].choice.best == plan(site.study, 1)[0].shown[3]


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"seen.overall": "0"}, "answer every question"),
        ({"best.overall": "0"}, "answer every question"),
        (_best(1, 1), "cannot be the same"),
        (_best(4, 0), "answer every question"),
        (_best("Zebra-Net", 0), "answer every question"),
        (_best("-1", 0), "answer every question"),
        (_best(0, 1, "x"), "not the one this page shows"),
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
    ada.post("/task/1", _best())
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
    first, second = plan(site.study, 1)
    answers = {answer.task: answer.choice for answer in site.store.answers()}
    assert answers == {first.key: Choice(first.shown[1], first.shown[0]), second.key: Choice("", "")}
    assert re.search(r'id="prefer\.overall\.none"[^>]*checked', client.get("/task/2").text)


# ---------------------------------------------------------------- blindness
def test_no_page_and_no_address_names_a_system(site, ada):
    pages = [ada.get(path).text for path in ("/", "/task/1", "/task/4", "/pause")]
    pages.append(ada.post("/task/1", {"best.overall": "0"}).text)
    for page in pages:
        for word in (*toy_study.SYSTEMS, "outputs", ".png"):
            assert word not in page


def test_images_come_without_the_metadata_of_their_maker(site, ada):
    task = plan(site.study, 1)[0]
    note = PngImagePlugin.PngInfo()
    note.add_text("Software", "made by Zebra-Net")
    source = Image.open(task.item.source).convert("RGB")
    source.save(task.item.source, pnginfo=note)
    name = re.search(r'/image/(\w+)" alt="Input', ada.get("/task/1").text)[1]
    response = ada.get(f"/image/{name}")
    assert response.headers["content-type"] == "image/png"
    assert b"Zebra" not in response.content
    assert Image.open(io.BytesIO(response.content)).tobytes() == source.tobytes()


# ---------------------------------------------------------------- hostile inputs
def test_a_script_in_a_name_or_an_instruction_is_shown_as_text(tmp_path):
    site = Site(toy_study.best_worst(tmp_path / "study", action=HOSTILE, title=HOSTILE))
    client = site.client()
    client.join(HOSTILE)
    for path in ("/", "/task/1", "/pause"):
        page = client.get(path).text
        assert "<script" not in page
        assert "&lt;script&gt;" in page


def test_no_page_holds_a_script_and_every_answer_the_headers(site, ada):
    for path in ("/", "/task/1", "/pause", "/nowhere", "/style.css", "/task/99"):
        response = ada.get(path)
        assert "default-src 'none'" in response.headers["content-security-policy"]
        assert "script-src" not in response.headers["content-security-policy"]
        assert response.headers["x-content-type-options"] == "nosniff"
        assert "<script" not in response.text
        assert not re.search(r'\s(on\w+|style)="', response.text)
    assert ada.get("/task/1").headers["cache-control"] == "no-store"


@pytest.mark.parametrize(
    "name",
    ["../study.yaml", "..%2fstudy.yaml", "%2e%2e%2fstudy.yaml", "%00", "....//study.yaml", "a" * 32, "%2fetc%2fpasswd"],
)
def test_images_are_found_by_their_id_only(ada, name):
    response = ada.get(f"/image/{name}")
    assert response.status_code == 404
    assert "kind:" not in response.text


def test_images_need_a_session(site, ada):
    name = re.search(r"/image/(\w+)", ada.get("/task/1").text)[1]
    assert ada.get(f"/image/{name}").status_code == 200
    assert site.client().get(f"/image/{name}").status_code == 401


def test_a_huge_body_is_refused(site, ada):
    for content in (b"a=" + b"x" * MAX_BODY, b"a=" + b"x" * 3_000_000):
        response = ada.send("POST", "/task/1", content=content, headers=toy_study.FORM)
        assert response.status_code == 413
        assert "larger than 16 kB" in response.text
    assert site.store.answers() == []


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"&".join(b"a%d=1" % number for number in range(100)), 400),
        (b"best.overall=0&best.overall=1", 400),
        (b"name=" + b"x" * 201, 400),
        (b"name=%ff", 400),
        (b"=&=&", 400),
    ],
)
def test_a_form_that_no_page_sends_is_refused(ada, content, status):
    assert ada.send("POST", "/task/1", content=content, headers=toy_study.FORM).status_code == status


def test_other_content_and_other_methods_are_refused(ada):
    assert ada.send("POST", "/task/1", json={"best.overall": "0"}).status_code == 415
    assert ada.send("PUT", "/task/1").status_code == 405
    assert ada.send("DELETE", "/").status_code == 405


@pytest.mark.parametrize("name", ["x" * 61, "a\nb", "a\u202eb"])
def test_a_name_too_long_or_unprintable_is_refused(site, name):
    client = site.client()
    assert client.join(name).status_code == 422
    assert site.store.annotators() == []


@pytest.mark.parametrize("page", ["0", "5", "-1", "1.5", "99999999999999999999", "a"])
def test_pages_that_a_session_lacks(ada, page):
    assert ada.get(f"/task/{page}").status_code == 404


def test_an_error_inside_is_a_plain_page(site, ada, monkeypatch):
    monkeypatch.setattr(site.store, "counts", lambda _: 1 / 0)
    response = ada.get("/task")
    assert response.status_code == 500
    assert "Something went wrong here" in response.text
    assert "ZeroDivision" not in response.text
    assert "default-src 'none'" in response.headers["content-security-policy"]


def test_foreign_hosts_and_origins_are_refused(site, ada):
    rebound = Client(site.app, host="evil.example:8765")
    assert rebound.get("/").status_code == 403
    for origin in ("http://evil.example", "http://127.0.0.1:9", "null"):
        assert ada.post("/task/1", _best(), headers={"Origin": origin}).status_code == 403
    assert site.store.answers() == []
    assert ada.post("/task/1", _best(), headers={"Origin": "http://127.0.0.1:8765"}).status_code == 303


# ---------------------------------------------------------------- the access token
def test_the_access_token_is_asked_of_strangers(tmp_path):
    site = Site(toy_study.best_worst(tmp_path / "study"), TOKEN, local=False)
    client = site.client(host="study.example")
    assert client.get("/").status_code == 401
    assert client.post("/start", {"form": "f" * 20, "agree": "yes"}).status_code == 401
    wrong = client.post("/enter", {"token": TOKEN[:-1]})
    assert wrong.status_code == 403
    assert "not the study&#39;s access token" in wrong.text
    assert client.get("/enter?token=").status_code == 403
    assert client.cookies == {}
    assert client.post("/enter", {"token": TOKEN}).headers["location"] == "/"
    assert TOKEN not in str(client.cookies)
    assert client.join("Ada").status_code == 303
    forged = site.client(host="study.example")
    forged.cookies = {"visdyn_access": "", "visdyn_session": ""}
    assert forged.get("/").status_code == 401


def test_no_wider_host_without_a_token(tmp_path):
    with pytest.raises(ValueError, match="needs an access token"):
        check_token("0.0.0.0", None)
    with pytest.raises(ValueError, match="16 or more"):
        check_token("127.0.0.1", "short")
    check_token("127.0.0.1", None)
    check_token("0.0.0.0", TOKEN)
    with pytest.raises(ValueError, match="needs an access token"):
        Site(toy_study.best_worst(tmp_path / "study"), None, local=False)


# ---------------------------------------------------------------- a real server
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
    for annotator in Store(folder / "answers.sqlite", study.fingerprint).annotators():
        stored = {answer.task: answer.choice for answer in answers if answer.annotator == annotator.number}
        for task, (best, worst) in zip(plan(study, annotator.number), given[annotator.name], strict=True):
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
            sent = [both.submit(each.send, "POST", f"/task/{page}", _best(*chosen[-1])) for each in (browser, twin)]
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
        browser.send("POST", "/task/1", _best())
        # A body that is never read to its end must not hold the server, nor a wrong request line.
        browser.connection.close()
        status, body, _ = toy_study.Browser(port).send("POST", "/start", {"name": "x" * 2_000_000})
        assert (status, "larger than 16 kB" in body) == (413, True)
    with toy_study.serving(folder) as port:
        again = toy_study.Browser(port)
        again.cookies = browser.cookies
        assert again.send("GET", "/task")[2] == "/task/2"
        again.send("POST", "/task/2", _best())
    command = [sys.executable, "-m", "visdyn.evaluation.human", "--study", str(folder)]
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
