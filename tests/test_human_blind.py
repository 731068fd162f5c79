"""The human study cannot be unblinded by who knows the kit, nor closed or filled by who has a script."""

from __future__ import annotations

import io
import re
import socket
import sqlite3
import stat
import time
from contextlib import closing

import numpy as np
import pytest
import toy_study
from human_site import TOKEN, Site, ranked
from PIL import Image

from visdyn.human_study import app, security, study_store
from visdyn.human_study.export import rows
from visdyn.human_study.plan import plan
from visdyn.human_study.security import Limit
from visdyn.human_study.study import load_study
from visdyn.human_study.study_store import FullError, Store


@pytest.fixture
def site(tmp_path):
    return Site(toy_study.best_worst(tmp_path / "study", per_subset=6))


def test_who_has_code_items_seed_and_number_names_systems_as_chance_has_it(site):
    right = pages = 0
    for number in range(1, 41):
        guesses = {task.item.key: task.shown for task in plan(site.study, number)}
        for task in plan(site.study, number, site.store.draw):
            right += sum(a == b for a, b in zip(task.shown, guesses[task.item.key], strict=True))
            pages += 1
    share = right / (pages * len(toy_study.SYSTEMS))
    assert abs(share - 1 / len(toy_study.SYSTEMS)) < 0.05  # 480 pages: three standard errors are 0.04


def test_the_order_of_items_and_the_pairs_are_drawn_from_the_secret_too(tmp_path):
    study = load_study(toy_study.pairwise(tmp_path / "study", count=6))
    stores = [Store(tmp_path / f"{name}.sqlite", study.fingerprint) for name in "ab"]
    plans = [[[task.key for task in plan(study, 1, draw)] for draw in ("", *(store.draw for store in stores))]]
    assert len({tuple(keys) for keys in plans[0]}) == 3
    assert plan(study, 1, stores[0].draw) == plan(study, 1, Store(tmp_path / "a.sqlite", study.fingerprint).draw)
    groups = {frozenset(task.key for task in plan(study, 1, f"{secret}")) for secret in range(8)}
    assert len(groups) > 1  # which pairs an annotator meets


def test_the_pages_served_and_the_export_follow_the_secret(site):
    client = site.client()
    client.join("Ada")
    client.post("/task/1", ranked(2, 0))
    task = plan(site.study, 1, site.store.draw)[0]
    (row,) = rows(site.study, site.store)
    assert (row["best"], row["worst"]) == (task.shown[2], task.shown[0])
    assert row["item"] == task.item.id


def test_a_study_begun_before_keeps_the_pages_its_annotators_were_shown(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study"))
    store = Store(tmp_path / "answers.sqlite", study.fingerprint)
    store.join("Ada", "form")
    with closing(sqlite3.connect(store.path)) as connection, connection:
        connection.execute("DELETE FROM meta WHERE key = 'drawn'")
    assert Store(tmp_path / "answers.sqlite", study.fingerprint).draw == ""
    assert Store(tmp_path / "new.sqlite", study.fingerprint).draw


@pytest.mark.parametrize("size", [(64, 64), (16, 40), (2000, 500)])
def test_images_of_an_item_have_one_size_whatever_their_maker_gave(tmp_path, size):
    folder = toy_study.best_worst(tmp_path / "study")
    for path in (folder / "outputs/Yak-Net").rglob("*.png"):
        Image.fromarray(np.zeros((size[1], size[0], 3), np.uint8)).save(path)
    client = Site(folder).client()
    client.join()
    page = client.get("/task/1").text
    shown = [Image.open(io.BytesIO(client.get(f"/image/{name}").content)) for name in re.findall(r"/image/(\w+)", page)]
    assert len(shown) == 5
    assert len({(image.size, image.mode, image.format) for image in shown}) == 1
    assert shown[0].size == (min(1024, max(size)),) * 2  # the source's shape, the largest side


def test_what_the_study_keeps_is_its_owner_s_alone(tmp_path):
    study = load_study(toy_study.best_worst(tmp_path / "study"))
    path = tmp_path / "answers.sqlite"
    store = Store(path, study.fingerprint)
    store.join("Ada", "form")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    path.chmod(0o644)
    Store(path, study.fingerprint)
    assert {stat.S_IMODE(file.stat().st_mode) for file in tmp_path.glob("answers.sqlite*")} == {0o600}


def test_sessions_are_bounded_in_all_and_from_one_address(site, monkeypatch):
    monkeypatch.setattr(study_store, "MAX_ANNOTATORS", 2)
    first = site.client()
    for _ in range(2):
        assert site.client().join().status_code == 303
    full = first.join()
    assert full.status_code == 403
    assert "2 annotators that it takes" in full.text
    with pytest.raises(FullError):
        site.store.join("", "another form")
    monkeypatch.setattr(study_store, "MAX_ANNOTATORS", 10**6)
    site.store.join("", "known form")
    assert site.store.join("", "known form")[0].number == 3  # the same form again is no new session


def test_a_script_s_sessions_end_at_the_limit(tmp_path, monkeypatch):
    monkeypatch.setattr(app, "MAX_JOINS", 3)
    site = Site(toy_study.best_worst(tmp_path / "study"))
    answers = [site.client().join().status_code for _ in range(5)]
    assert answers == [303, 303, 303, 429, 429]
    assert len(site.store.annotators()) == 3


@pytest.mark.parametrize("path", ["/enter?token=guess-{}", "/resume/guess-{}", "/progress/guess-{}"])
def test_guesses_are_slowed(tmp_path, monkeypatch, path):
    monkeypatch.setattr(app, "MAX_GUESSES", 3)
    site = Site(toy_study.best_worst(tmp_path / "study"), token=TOKEN)
    client = site.client()
    answers = [client.get(path.format(number)).status_code for number in range(5)]
    assert answers[3:] == [429, 429]
    assert not {200, 303, 429} & set(answers[:3])
    assert client.get(f"/enter?token={TOKEN}").status_code == 429  # the right one too: else it would tell


def test_a_limit_forgets_with_time_and_its_memory_is_bounded(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(security.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(security, "MAX_CLIENTS", 5)
    limit = Limit(2, 10.0)
    limit.note("a")
    assert not limit.is_reached("a")
    limit.note("a")
    assert limit.is_reached("a")
    assert not limit.is_reached("b")
    now[0] = 11.0
    assert not limit.is_reached("a")
    for number in range(20):
        limit.note(str(number))
    assert len(limit._times) == 5


def test_the_owner_sees_progress_and_codes_and_no_one_else_does(site):
    ada, bert = site.client(), site.client()
    ada.join("Ada")
    bert.join("Bert")
    for page in range(1, 13):
        ada.post(f"/task/{page}", ranked())
    bert.post("/task/1", ranked())
    code = re.search(r'class="link">([0-9A-F]{10})<', ada.get("/task").text)[1]
    page = site.client().get(f"/progress/{site.store.owner_key}").text
    assert "2 joined, 1 finished" in page
    assert "12 of 12" in page
    assert "1 of 12" in page
    assert page.count(code) == 1
    assert site.store.completion_code(2) not in page  # Bert has not finished
    assert not [name for name in toy_study.SYSTEMS if name in page]
    assert ada.get("/progress/x").status_code == 404
    assert site.store.completion_code(1) != site.store.completion_code(2)


def test_the_input_image_stays_in_sight_beside_all_candidates(site):
    client = site.client()
    client.join()
    page = client.get("/task/1").text
    main = page[page.index('<main class="compare">') :]
    assert main.index('class="source"') < main.index('class="candidates')
    style = client.get("/style.css").text
    assert re.search(r"\.source \{ position: sticky;", style)


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: "])
def test_connections_that_never_say_their_headers_are_closed(tmp_path, monkeypatch, said):
    import asyncio
    import threading

    import uvicorn

    from visdyn.human_study.connections import BoundedProtocol

    monkeypatch.setattr(BoundedProtocol, "header_seconds", 0.5)
    monkeypatch.setattr(BoundedProtocol, "per_address", 3)
    site = Site(toy_study.best_worst(tmp_path / "study"))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        config = uvicorn.Config(site.app, http=BoundedProtocol, log_level="critical", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.05)
        silent = [socket.create_connection(("127.0.0.1", port), timeout=30) for _ in range(3)]
        for connection in silent:
            connection.sendall(said)
        with socket.create_connection(("127.0.0.1", port), timeout=30) as fourth:
            assert fourth.recv(10) == b""  # one more than an address may have
        for connection in silent:
            assert connection.recv(10) == b""
            connection.close()
        with socket.create_connection(("127.0.0.1", port), timeout=30) as other:
            other.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            assert other.recv(12) == b"HTTP/1.1 200"
        server.should_exit = True
        thread.join(30)
