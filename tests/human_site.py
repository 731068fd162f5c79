"""The human study's application in this process, and a browser for it, for tests."""

from __future__ import annotations

import asyncio
import re

import httpx
import pytest

pytest.importorskip("starlette", reason="the human study needs starlette")

from visdyn.human_study.app import create_app
from visdyn.human_study.study import load_study
from visdyn.human_study.study_store import Store

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

    def __init__(self, folder, token=None, local=True, public_url="") -> None:
        self.study = load_study(folder)
        self.store = Store(folder / "answers.sqlite", self.study.fingerprint)
        self.app = create_app(self.study, self.store, token, local, public_url)

    def client(self, **options) -> Client:
        return Client(self.app, **options)


def ranked(best=0, worst=1, seen=0) -> dict:
    return {"best.overall": str(best), "worst.overall": str(worst), "seen.overall": str(seen)}
