"""The explorer's page in a real browser: no script from elsewhere, steered by mouse; and its widgets without one."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime

import httpx
import pytest
from toy_profile import make_profile
from traitlets import Bunch

from visdyn.explorer import panels, play
from visdyn.explorer.opened import OWN, open_profile
from visdyn.paths import repository_root


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = make_profile(tmp_path_factory.mktemp("page") / "profile")
    shutil.rmtree(folder / "models/doundo")  # its editor is a class of these tests, which a server does not know
    return folder


@pytest.fixture
def page(root):
    return panels.Page(open_profile(str(root)))


@pytest.mark.parametrize(
    ("panel", "said"),
    [(0, "true: "), (1, "sorted by it"), (2, "of the weight"), (3, "It says"), (4, "start")],
)
def test_every_panel_answers_when_it_comes_to_the_front(page, panel, said):
    page.tabs.selected_index = panel
    page.refresh()
    assert said in page.panels[panel].answer.value
    assert page.status.value == ""


def test_an_item_taken_in_hand_brings_its_action_and_clears_the_walk(page):
    walks = page.panels[4]
    page.tabs.selected_index = 4
    walks.step("do")
    assert f"1. {page.item.action}" in walks.answer.value
    other = page.opened.items[-1]
    page.take(other)
    assert page.action.value == other.action
    assert "1. " not in walks.answer.value
    walks.step("undo")
    assert "nothing was done yet" in page.status.value


def test_what_goes_wrong_is_a_sentence_on_the_page(page):
    page.action.value = ""
    assert "choose an action, or type one" in page.status.value
    page.action.value = page.item.action
    assert page.status.value == ""
    page.browser.low.value = "many"
    assert "many" in page.status.value


def test_the_browser_shows_ten_at_a_time_in_the_order_chosen(page):
    page.browser.order.value = "worst"
    page.browser.system.value = "supervised"
    assert len(page.browser.cells.children) == 10
    first = page.browser.cells.children[0].children[1]
    last = page.opened.items[-1]
    assert first.tooltip == f"{last.subset}/{last.id}"
    first.click()
    assert page.item.id == last.id
    page.browser.turn(10)
    assert len(page.browser.cells.children) == len(page.opened.items) - 10
    page.browser.turn(10)
    assert page.browser.start == 10


def test_images_of_ones_own_come_in_by_the_upload(page, root):
    item = page.opened.items[0]
    contents = {end: getattr(item, end).read_bytes() for end in ("source", "target")}
    files = [Bunch(name=f"{end}.png", type="image/png", size=len(content), content=memoryview(content),
                   last_modified=datetime.now(UTC)) for end, content in contents.items()]  # fmt: skip
    page.tabs.selected_index = 3
    page.upload.set_trait("value", tuple(files))
    assert page.item.subset == OWN
    assert page.item.source.parent == root / ".visdyn/explorer"
    assert "It says" in page.panels[3].answer.value
    assert "after (yours)" in page.panels[3].answer.value
    assert "<img" in page.snapshot().data


def test_a_model_of_the_command_line_keeps_its_place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text("")
    assert play._split_model("x=mine.py:Mine") == ("x", f"{tmp_path / 'mine.py'}:Mine")
    assert play._split_model("x=owner/model") == ("x", "owner/model")
    with pytest.raises(ValueError, match="no LABEL=MODEL"):
        play._split_model("mine.py")


@pytest.fixture
def server(root, tmp_path):
    """The page's server as a user starts it, and its address."""
    pytest.importorskip("voila", reason="Voilà is not installed (extra lab)")
    log = tmp_path / "play.log"
    command = [sys.executable, "-m", "visdyn.cli", "play", "--profile", str(root), "--no-browser", "--port", "18866"]
    variables = {**os.environ, "PYTHONPATH": str(repository_root() / "src"), "PYTHONUNBUFFERED": "1"}
    with open(log, "w") as stream:
        process = subprocess.Popen(command, env=variables, stdout=stream, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 120
        while not (found := re.search(r"http://127\.\S+token=\S+", log.read_text())):
            assert process.poll() is None, log.read_text()[-2000:]
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.3)
        yield found[0]
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
def test_every_answer_is_in_sight_by_mouse_and_nobody_else_is_asked(server, chromium, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(repository_root() / "benchmarks"))
    from explorer_by_mouse import SIZES, Visitor

    visitor = Visitor(chromium.new_page(), patience=180)
    visitor.open(server)
    visitor.ask_everything(tmp_path)
    assert len(visitor.asked) == 9
    assert all(set(one.hidden) == set(SIZES) for one in visitor.asked)
    assert {one.question: one.hidden for one in visitor.asked if any(one.hidden.values())} == {}
    assert visitor.elsewhere == []


@pytest.mark.slow
def test_without_its_token_the_page_is_closed(server):
    address = server.partition("?")[0]
    answer = httpx.get(address)
    assert answer.status_code == 302
    assert answer.headers["location"].startswith("/login")
    assert httpx.get(f"{address}api/kernels/00000000-0000-0000-0000-000000000000").status_code == 403
