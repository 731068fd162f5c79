"""Serve a human study, or export its answers.

`visdyn study serve FOLDER [--answers SQLITE] [--host HOST] [--port PORT]
    [--public-url URL] [--export CSV]`

By default the pages are served to this machine only. For any other host an access token is required: set
`VISDYN_STUDY_TOKEN` (16 characters or more), for example to the output of `python -c "import secrets;
print(secrets.token_urlsafe(24))"`. The server speaks plain HTTP; across an open network put a TLS proxy before it and
say how browsers see it: `--public-url https://study.example.org`.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, urlsplit

from visdyn.human_study.export import export
from visdyn.human_study.security import LOOPBACK, check_public_url, check_token
from visdyn.human_study.study import Study, StudyError, load_study
from visdyn.human_study.study_store import Store, StoreError
from visdyn.quarantine import Quarantine

TOKEN = "VISDYN_STUDY_TOKEN"  # from the environment: a command line can be read by every user of the machine


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status (2 for a study, file or host that cannot be used)."""
    options = _make_parser().parse_args(arguments)
    try:
        study, store = _open_study(options.study, options.answers)
        if options.export:
            print(f"{export(study, store, options.export)} answers written to {options.export}")
            return 0
        token = os.environ.get(TOKEN) or None
        check_token(urlsplit(options.public_url).hostname or options.host, token)
        if options.public_url:
            check_public_url(options.public_url)
    except (StudyError, StoreError, ValueError) as error:
        print(f"human study: {error}" + (f" ({TOKEN})" if "token" in str(error) else ""), file=sys.stderr)
        return 2
    _serve_study(study, store, options.host, options.port, token, options.public_url)
    return 0


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn study serve", description=__doc__.splitlines()[0])
    parser.add_argument("study", type=Path, help="folder with study.yaml, items.jsonl and the images")
    parser.add_argument("--answers", type=Path, help="SQLite file of the answers (default: FOLDER/answers.sqlite)")
    parser.add_argument("--host", default="127.0.0.1", help=f"beyond this machine {TOKEN} is needed")
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--public-url", default="", help="https://host, where browsers see it through a TLS proxy")
    parser.add_argument("--export", type=Path, metavar="CSV", help="write the answers as CSV and end")
    return parser


def _open_study(folder: Path, answers: Path | None) -> tuple[Study, Store]:
    quarantine = Quarantine()
    study = load_study(folder, quarantine)
    answers = answers or folder / "answers.sqlite"
    size = f"{study.settings.kind}, {len(study.items)} items, {len(study.systems)} systems"
    print(f"{study.settings.title}: {size}, {quarantine.summary()}")
    store = Store(answers, study.fingerprint)
    if len(quarantine):
        quarantine.write(answers.with_suffix(".quarantine.csv"))
    return study, store


def _serve_study(study: Study, store: Store, host: str, port: int, token: str | None, public_url: str) -> None:
    import uvicorn

    from visdyn.human_study.app import create_app
    from visdyn.human_study.connections import BehindProxy, BoundedProtocol

    app = create_app(study, store, token, host in LOOPBACK, public_url)
    shown = f"[{host}]" if ":" in host else host
    address = public_url.rstrip("/") or f"http://{shown}:{port}"
    entry = f"/enter?token={quote(token, safe='')}" if token else "/"
    print(f"answers go to {store.path}")
    print(f"for yourself, who has finished: {address}/progress/{store.owner_key}")
    print(f"open {address}{entry} (Ctrl-C ends the server; answers are kept)", flush=True)
    # No access log: its lines would hold the resume links. No server header: it tells a stranger what to attack.
    uvicorn.run(app, host=host, port=port, access_log=False, server_header=False, log_level="warning", ws="none",
                proxy_headers=False, timeout_keep_alive=30, limit_concurrency=1000,
                http=BehindProxy if public_url else BoundedProtocol)  # fmt: skip
