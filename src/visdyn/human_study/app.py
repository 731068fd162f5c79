"""The study's pages: consent, one page per comparison, pause and resume. Plain HTML forms; no script anywhere."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from visdyn.human_study import pages
from visdyn.human_study.pictures import Pictures
from visdyn.human_study.plan import Task, plan
from visdyn.human_study.security import LOOPBACK, Guard, Limit, access_proof, check_public_url, read_form, same
from visdyn.human_study.study import Study
from visdyn.human_study.study_store import Annotator, FullError, Store

SESSION, ACCESS = "visdyn_session", "visdyn_access"
MAX_NAME = 60  # characters of an annotator's name
# An address may be a whole institute's, or a proxy's: these stop a script, not a class that starts together.
MAX_JOINS, MAX_GUESSES = 120, 60  # sessions begun, and tokens or links that were wrong, an address
LIMIT_SECONDS = 600.0
_TEMPLATES = Path(__file__).parent / "templates"
_MONTH = 30 * 24 * 3600
_ALREADY = "This page was sent before with other choices, which are shown below. Change them here if you like."


def create_app(
    study: Study, store: Store, access_token: str | None = None, local: bool = True, public_url: str = ""
) -> Guard:
    """Build the web application (ASGI).

    Args:
        study: what is compared.
        store: takes the answers; opened with the study's fingerprint.
        access_token: asked of everyone who has no session yet; None: not asked.
        local: served to this machine only, so that other host names are refused.
        public_url: `https://host` of a proxy before it; links and cookies are then for that address.

    Raises:
        ValueError: not local, or public, and no access token; an address that is none.
    """
    if access_token is None and (not local or public_url):
        raise ValueError("a study that other machines can reach needs an access token")
    if public_url:
        check_public_url(public_url)
    return _Site(study, store, access_token).app(LOOPBACK if local else None, public_url)


class _Site:
    """The handlers, over one study and one store."""

    def __init__(self, study: Study, store: Store, access_token: str | None) -> None:
        self.study, self.store = study, store
        self.token = access_token
        self.proof = access_proof(store.secret, access_token) if access_token else ""
        self.pictures = Pictures(study, store.secret)
        self.joins, self.guesses = Limit(MAX_JOINS, LIMIT_SECONDS), Limit(MAX_GUESSES, LIMIT_SECONDS)
        self.templates = Environment(loader=FileSystemLoader(_TEMPLATES), autoescape=True, undefined=StrictUndefined,
                                     trim_blocks=True, lstrip_blocks=True)  # fmt: skip
        self.style = (_TEMPLATES / "style.css").read_text(encoding="utf-8")

    def app(self, hosts: tuple[str, ...] | None, public_url: str) -> Guard:
        routes = [
            Route("/", self.consent),
            Route("/start", self.start, methods=["POST"]),
            Route("/enter", self.enter, methods=["GET"]),
            Route("/enter", self.enter_form, methods=["POST"]),
            Route("/resume/{token}", self.resume),
            Route("/task", self.next_task),
            Route("/task/{position:int}", self.task, methods=["GET"]),
            Route("/task/{position:int}", self.submit, methods=["POST"]),
            Route("/pause", self.pause),
            Route("/leave", self.leave, methods=["POST"]),
            Route("/progress/{key}", self.progress),
            Route("/image/{name}", self.image),
            Route("/style.css", self.stylesheet),
        ]
        handlers = {HTTPException: self.refused, Exception: self.failed}
        # Around the framework and not inside it, so that its own error pages carry the headers as well.
        return Guard(Starlette(routes=routes, exception_handlers=handlers), hosts, public_url)

    # ---------------------------------------------------------------- coming in
    def consent(self, request: Request) -> Response:
        self._require_access(request)
        return self._render_page("consent.html.j2", form=secrets.token_urlsafe(16), error="", name="",
                          annotator=self._find_annotator(request), pages=len(self._plan(1)))  # fmt: skip

    async def start(self, request: Request) -> Response:
        return await run_in_threadpool(self._start_session, request, await read_form(request))

    def _start_session(self, request: Request, given: Mapping[str, str]) -> Response:
        self._require_access(request)
        name, form = given.get("name", "").strip(), given.get("form", "")
        if error := _find_name_problem(name) or (
            "" if given.get("agree") == "yes" else "Please agree first, or leave."
        ):
            again = {"form": form, "error": error, "name": name[:MAX_NAME]}
            return self._render_page("consent.html.j2", 422, **again, annotator=None, pages=len(self._plan(1)))
        if len(form) < 16:
            raise HTTPException(400, "The form is not the one this page shows. Reload it and send it again.")
        if self._find_annotator(request):
            return _redirect_to("/task")
        self._refuse_beyond(self.joins, request, "Many sessions were begun from here. Wait some minutes.")
        try:
            token = self.store.join(name, form)[1]
        except FullError as error:
            raise HTTPException(403, f"Thank you, but {error}.") from error
        self.joins.note(_read_address(request))
        return _with_cookie(_redirect_to("/task"), SESSION, token, request)

    def enter(self, request: Request) -> Response:
        given = request.query_params.get("token")
        return self._render_page("enter.html.j2", error="") if given is None else self._check_access(request, given)

    async def enter_form(self, request: Request) -> Response:
        return self._check_access(request, (await read_form(request)).get("token", ""))

    def _check_access(self, request: Request, given: str) -> Response:
        self._refuse_guessing(request)
        if self.token is not None and not same(access_proof(self.store.secret, given), self.proof):
            self.guesses.note(_read_address(request))
            return self._render_page("enter.html.j2", 403, error="This is not the study's access token.")
        return _with_cookie(_redirect_to("/"), ACCESS, self.proof, request) if self.proof else _redirect_to("/")

    def resume(self, request: Request) -> Response:
        self._refuse_guessing(request)
        token = request.path_params["token"]
        if self.store.annotator(token) is None:
            self.guesses.note(_read_address(request))
            raise HTTPException(404, "This link belongs to no session of this study.")
        return _with_cookie(_redirect_to("/task"), SESSION, token, request)

    def pause(self, request: Request) -> Response:
        annotator, tasks, remaining = self._load_session(request)
        link = f"{request.url.scheme}://{request.url.netloc}/resume/{request.cookies[SESSION]}"
        return self._render_page("pause.html.j2", annotator=annotator, link=link,
                          done=len(tasks) - len(remaining), total=len(tasks))  # fmt: skip

    def leave(self, request: Request) -> Response:
        response = _redirect_to("/")
        response.delete_cookie(SESSION)
        return response

    def progress(self, request: Request) -> Response:
        """Show whoever runs the study how far it is; it names no system, so that its reader may annotate as well."""
        self._refuse_guessing(request)
        if not same(request.path_params["key"], self.store.owner_key):
            self.guesses.note(_read_address(request))
            raise HTTPException(404, "There is no such page.")
        rows = []
        for annotator in self.store.annotators():
            tasks, remaining = self._pages_of(annotator)
            code = "" if remaining else self.store.completion_code(annotator.number)
            rows.append({"number": annotator.number, "name": annotator.name, "done": len(tasks) - len(remaining),
                         "total": len(tasks), "code": code})  # fmt: skip
        finished = sum(not row["done"] < row["total"] for row in rows)
        return self._render_page("progress.html.j2", rows=rows, finished=finished)

    # ---------------------------------------------------------------- the comparisons
    def next_task(self, request: Request) -> Response:
        annotator, tasks, remaining = self._load_session(request)
        if remaining:
            return _redirect_to(f"/task/{remaining[0]}")
        code = self.store.completion_code(annotator.number)
        return self._render_page("done.html.j2", annotator=annotator, total=len(tasks), code=code)

    def task(self, request: Request) -> Response:
        return self._task_page(request, {})

    async def submit(self, request: Request) -> Response:
        return await run_in_threadpool(self._record_answer, request, await read_form(request))

    def _record_answer(self, request: Request, given: Mapping[str, str]) -> Response:
        annotator, tasks, _ = self._load_session(request)
        task = _find_task(tasks, request)
        try:
            chosen = pages.choices(self.study, task, given)
        except ValueError as error:
            return self._task_page(request, given, 422, str(error))
        if not self.store.record(annotator.number, task.key, task.shown, chosen):
            return self._task_page(request, {}, 409, _ALREADY)
        return _redirect_to("/task")

    def _task_page(self, request: Request, given: Mapping[str, str], status: int = 200, error: str = "") -> Response:
        annotator, tasks, remaining = self._load_session(request)
        task = _find_task(tasks, request)
        stored = self.store.page(annotator.number, task.key)
        return self._render_page(
            "task.html.j2", status, annotator=annotator, task=task, error=error, stored=bool(stored),
            done=len(tasks) - len(remaining), total=len(tasks), position=request.path_params["position"],
            source=self.pictures.source(task.item),
            candidates=pages.candidates(task, self.study, self.pictures),
            questions=pages.questions(self.study, task, stored, given),
        )  # fmt: skip

    def image(self, request: Request) -> Response:
        self._session_of(request)
        try:
            data = self.pictures.png(request.path_params["name"])
        except KeyError as error:
            raise HTTPException(404, "There is no such image.") from error
        return Response(data, media_type="image/png", headers={"Cache-Control": "private, max-age=86400"})

    def stylesheet(self, request: Request) -> Response:
        return Response(self.style, media_type="text/css", headers={"Cache-Control": "max-age=3600"})

    # ---------------------------------------------------------------- who is there
    def _find_annotator(self, request: Request) -> Annotator | None:
        return self.store.annotator(request.cookies.get(SESSION))

    def _require_access(self, request: Request) -> None:
        """Let in who knows the access token, or has a session and so knew it once."""
        if self.token is None or same(request.cookies.get(ACCESS), self.proof) or self._find_annotator(request):
            return
        raise HTTPException(401, "This study needs an access token. Open the link that you were sent.")

    def _session_of(self, request: Request) -> Annotator:
        if annotator := self._find_annotator(request):
            return annotator
        raise HTTPException(401, "There is no session here. Begin at the first page, or open your resume link.")

    def _load_session(self, request: Request) -> tuple[Annotator, tuple[Task, ...], list[int]]:
        """Return who asks, their pages, and the positions (from 1) still to answer."""
        annotator = self._session_of(request)
        return annotator, *self._pages_of(annotator)

    def _pages_of(self, annotator: Annotator) -> tuple[tuple[Task, ...], list[int]]:
        tasks = self._plan(annotator.number)
        counts, needed = self.store.counts(annotator.number), len(self.study.questions)
        return tasks, [place for place, task in enumerate(tasks, 1) if counts.get(task.key, 0) < needed]

    def _plan(self, number: int) -> tuple[Task, ...]:
        return plan(self.study, number, self.store.draw)

    def _refuse_guessing(self, request: Request) -> None:
        self._refuse_beyond(self.guesses, request, "Many wrong links came from here. Wait some minutes.")

    def _refuse_beyond(self, limit: Limit, request: Request, words: str) -> None:
        if limit.is_reached(_read_address(request)):
            raise HTTPException(429, words, {"Retry-After": f"{limit.seconds:.0f}"})

    # ---------------------------------------------------------------- answers in HTML
    async def refused(self, request: Request, error: HTTPException) -> Response:
        return self._render_page("message.html.j2", error.status_code, message=error.detail, headers=error.headers)

    async def failed(self, request: Request, error: Exception) -> Response:
        message = (
            "Something went wrong here. Nothing that you sent is lost unless this page was to take it: go back and "
            "send it again."
        )
        return self._render_page("message.html.j2", 500, message=message)

    def _render_page(
        self, template: str, status: int = 200, headers: Mapping[str, str] | None = None, **values
    ) -> Response:
        html = self.templates.get_template(template).render(settings=self.study.settings, **values)
        return HTMLResponse(html, status, headers=dict(headers or {}))


def _find_task(tasks: tuple[Task, ...], request: Request) -> Task:
    position = request.path_params["position"]
    if not 1 <= position <= len(tasks):
        raise HTTPException(404, f"Your session has pages 1 to {len(tasks)}.")
    return tasks[position - 1]


def _find_name_problem(name: str) -> str:
    if len(name) > MAX_NAME or not name.isprintable():
        return f"A name has at most {MAX_NAME} characters, all of them printable."
    return ""


def _read_address(request: Request) -> str:
    return request.client.host if request.client else ""


def _redirect_to(path: str) -> Response:
    return RedirectResponse(path, 303)


def _with_cookie(response: Response, name: str, value: str, request: Request) -> Response:
    # Lax and not strict: a resume link opened from a mail must find its cookie after the redirect.
    response.set_cookie(
        name, value, max_age=_MONTH, httponly=True, samesite="lax", secure=request.url.scheme == "https"
    )
    return response
