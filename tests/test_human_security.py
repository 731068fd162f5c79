"""The human study refuses what it should: other systems' names, scripts, paths, huge bodies, strangers."""

from __future__ import annotations

import io
import re

import pytest
import toy_study
from PIL import Image, PngImagePlugin

pytest.importorskip("starlette", reason="the human study needs starlette")

from human_site import HOSTILE, TOKEN, Client, Site, ranked

from visdyn.human_study.plan import plan
from visdyn.human_study.security import MAX_BODY, check_token


@pytest.fixture
def site(tmp_path):
    return Site(toy_study.best_worst(tmp_path / "study", items_per_subset=2))


@pytest.fixture
def ada(site):
    client = site.client()
    assert client.join("Ada").status_code == 303
    return client


def test_no_page_and_no_address_names_a_system(site, ada):
    pages = [ada.get(path).text for path in ("/", "/task/1", "/task/4", "/pause")]
    pages.append(ada.post("/task/1", {"best.overall": "0"}).text)
    for page in pages:
        for word in (*toy_study.SYSTEMS, "outputs", ".png"):
            assert word not in page


def test_images_come_without_the_metadata_of_their_maker(site, ada):
    task = plan(site.study, 1, site.store.draw)[0]
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
        assert ada.post("/task/1", ranked(), headers={"Origin": origin}).status_code == 403
    assert site.store.answers() == []
    assert ada.post("/task/1", ranked(), headers={"Origin": "http://127.0.0.1:8765"}).status_code == 303


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


# ---------------------------------------------------------------- behind a proxy
@pytest.mark.parametrize("host", ["127.0.0.1:8765", "study.example.org"])  # nginx's default, and with Host passed on
def test_behind_a_proxy_links_and_cookies_are_for_the_public_address(tmp_path, host):
    public = "https://study.example.org"
    site = Site(toy_study.best_worst(tmp_path / "study"), TOKEN, public_url=public)
    client = site.client(host=host)
    entered = client.get(f"/enter?token={TOKEN}")
    assert "Secure" in entered.headers["set-cookie"]
    form = re.search(r'name="form" value="([^"]+)"', client.get("/").text)[1]
    fields = {"form": form, "agree": "yes", "name": ""}
    assert client.post("/start", fields, headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert client.post("/start", fields, headers={"Origin": public}).status_code == 303
    assert f"{public}/resume/" in client.get("/pause").text
    assert client.post("/task/1", ranked(), headers={"Origin": public}).status_code == 303
    assert site.client(host="evil.example").get("/").status_code == 403


def test_a_public_address_needs_a_token_and_no_path(tmp_path):
    folder = toy_study.best_worst(tmp_path / "study")
    with pytest.raises(ValueError, match="needs an access token"):
        Site(folder, public_url="https://study.example.org")
    for address in ("study.example.org", "https://a.example/study", "ftp://a.example", "https://"):
        with pytest.raises(ValueError, match="no public address"):
            Site(folder, TOKEN, public_url=address)
