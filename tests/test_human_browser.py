"""The human study in a headless Chromium, by keyboard and with JavaScript switched off."""

from __future__ import annotations

import re

import pytest
import toy_study

from visdyn.human_study.plan import plan
from visdyn.human_study.study import load_study
from visdyn.human_study.study_store import Choice, Store

pytestmark = pytest.mark.slow


@pytest.fixture
def study(tmp_path):
    return toy_study.best_worst(tmp_path / "study", items_per_subset=2)


def _open(chromium, port: int, path: str = "/"):
    page = chromium.new_context(java_script_enabled=False).new_page()
    page.set_default_timeout(60_000)
    page.goto(f"http://127.0.0.1:{port}{path}")
    return page


def _press(page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def _alt(page, keys: str) -> None:
    """Press access keys: Chromium finds them by the text of a char event, which Playwright's keyboard does not send."""
    session = page.context.new_cdp_session(page)
    for key in keys:
        code = f"Digit{key}" if key.isdigit() else f"Key{key.upper()}"
        event = {"modifiers": 1, "key": key, "code": code, "unmodifiedText": key}
        for kind, text in (("rawKeyDown", {}), ("char", {"text": key}), ("keyUp", {})):
            session.send("Input.dispatchKeyEvent", {"type": kind, **event, **text})
    session.detach()


def _consent(page, name: str) -> None:
    _press(page, "Tab", "Space", "Tab")
    page.keyboard.type(name)
    _press(page, "Enter")
    page.wait_for_url("**/task/1")


def _stored(folder):
    study = load_study(folder)
    return study, Store(folder / "answers.sqlite", study.fingerprint)


def test_a_session_by_keyboard_closed_and_resumed(chromium, study):
    with toy_study.serving(study) as port:
        page, other = _open(chromium, port), None
        _consent(page, "Ada")
        # Page 1 with Tab, Space and arrows alone, over the skip link: best A, worst B.
        _press(page, "Tab", "Enter", "Tab", "Space", "Tab", "ArrowRight", "ArrowLeft", "ArrowRight", "Tab", "Enter")
        page.wait_for_url("**/task/2")
        # A second annotator at the same time, in a browser of their own.
        other = _open(chromium, port)
        _consent(other, "Bert")
        # Page 2 with access keys: best C, worst A.
        _alt(page, "35s")
        page.wait_for_url("**/task/3")
        _alt(page, "p")
        page.wait_for_url("**/pause")
        link = page.get_by_label("Your resume link").input_value()
        page.context.close()
        page = _open(chromium, port, re.sub(r"^http://[^/]+", "", link))
        assert page.url.endswith("/task/3")
        for place in (3, 4):
            page.wait_for_url(f"**/task/{place}")
            _alt(page, "46s")
        page.wait_for_url("**/task")
        assert page.get_by_role("heading", name="Thank you, Ada").is_visible()
        for place in (1, 2, 3, 4):
            other.wait_for_url(f"**/task/{place}")
            _alt(other, "18s")
        other.wait_for_url("**/task")
        assert other.get_by_role("heading", name="Thank you, Bert").is_visible()
    loaded, store = _stored(study)
    answers = {(answer.annotator, answer.task): answer.choice for answer in store.answers()}
    assert len(answers) == 8
    for annotator, picks in ((1, [(0, 1), (2, 0), (3, 1), (3, 1)]), (2, [(0, 3)] * 4)):
        for task, (best, worst) in zip(plan(loaded, annotator, store.draw), picks, strict=True):
            assert answers[annotator, task.key] == Choice(task.shown[best], task.shown[worst])


def test_a_page_submitted_twice_from_two_tabs_and_after_back(chromium, study):
    with toy_study.serving(study) as port:
        page = _open(chromium, port)
        _consent(page, "<script>document.title='taken'</script>")
        assert "taken" not in page.title()
        tab = page.context.new_page()
        tab.goto(f"http://127.0.0.1:{port}/task/1")
        _alt(page, "16s")
        page.wait_for_url("**/task/2")
        _alt(tab, "45s")
        alert = tab.get_by_role("alert")
        alert.wait_for()
        assert "sent before with other choices" in alert.inner_text()
        page.go_back()
        _alt(page, "s")
        page.wait_for_url("**/task/2")
        page.goto(f"http://127.0.0.1:{port}/task/1")
        assert page.locator("input:checked").count() == 2
    loaded, store = _stored(study)
    (answer,) = store.answers()
    assert (answer.choice.best, answer.revision) == (plan(loaded, 1, store.draw)[0].shown[0], 1)


def test_open_questions_are_held_back_and_the_focus_is_seen(chromium, study):
    with toy_study.serving(study) as port:
        page = _open(chromium, port)
        _consent(page, "Ada")
        _alt(page, "2s")  # worst is open: the browser's own check keeps the form
        assert page.url.endswith("/task/1")
        _alt(page, "6s")  # the same image twice: the server's check
        page.get_by_role("alert").wait_for()
        assert "cannot be the same" in page.get_by_role("alert").inner_text()
        assert page.locator("input:checked").count() == 2
        _press(page, "Tab", "Tab")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline == "solid"
        for image in page.locator("img").all():
            assert image.evaluate("image => image.complete && image.naturalWidth") == 16
    assert _stored(study)[1].answers() == []
