"""`visdyn play`: the explorer as a page in the browser, on this machine only; it needs no network.

Voilà runs a notebook of one cell and shows its widgets, so that this page and `notebooks/explore.ipynb` are one
implementation. Its address carries a token: other users of the machine cannot steer it.
"""

from __future__ import annotations

import argparse
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from visdyn.paths import profile_root

HOST = "127.0.0.1"
NAME = "visdyn-explorer.ipynb"
TEMPLATE = "visdyn"
# Voilà's own template asks a server elsewhere for icons that the page does not show.
_TEMPLATE = """{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{{ super() | replace("https://cdn.jsdelivr.net", "data:text/css,") }}
{%- endblock notebook_css -%}
"""
_START_SECONDS = 600  # for a page's kernel; Voilà's own 60 are not enough beside a training
_IDLE_SECONDS = 3600  # after which the models of a page that nobody has open are let go


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve the page until Ctrl+C."""
    options = _make_parser().parse_args(arguments)
    models = dict(_split_model(text) for text in options.model)
    profile_root(options.profile)  # refuses a wrong folder before a server starts
    with tempfile.TemporaryDirectory(prefix="visdyn-play-") as folder:
        notebook = write_page(Path(folder) / NAME, options.profile, options.chain, models)
        write_template(Path(folder))
        serve_page(notebook, options.port, not options.no_browser)
    return 0


def write_page(path: Path, profile: str, chain: int | None, models: Mapping[str, str]) -> Path:
    """Write the notebook that shows the explorer; return its path."""
    import nbformat

    call = f"explore({profile!r}, {chain!r}, {dict(models)!r})"
    cell = nbformat.v4.new_code_cell(f"from visdyn.explorer import explore\n\n{call}", id="explorer")
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel, "title": "visdyn explorer"})
    path.write_text(nbformat.writes(notebook), encoding="utf-8")
    return path


def write_template(folder: Path) -> None:
    """Write the page's template where Voilà looks for it, once `folder` is on JUPYTER_PATH."""
    place = folder / "voila/templates" / TEMPLATE
    place.mkdir(parents=True)
    (place / "index.html.j2").write_text(_TEMPLATE)
    (place / "conf.json").write_text('{"base_template": "lab"}')


def serve_page(notebook: Path, port: int, browser: bool) -> None:
    """Serve a notebook's widgets on this machine; return when it is stopped."""
    from traitlets.config import Config
    from voila.app import Voila

    # Kernels start in the notebook's folder; what they read starts at the repository, and with this environment.
    os.environ["VISDYN_PREFIX"], os.environ["JUPYTER_PREFER_ENV_PATH"] = sys.prefix, "1"
    os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [str(notebook.parent), os.environ.get("JUPYTER_PATH")]))
    token = secrets.token_urlsafe(18)
    settings = Config()
    settings.Voila.ip, settings.Voila.port, settings.Voila.port_retries = HOST, port, 0
    settings.Voila.open_browser, settings.Voila.token = browser, token
    settings.VoilaConfiguration.file_allowlist, settings.VoilaConfiguration.template = [], TEMPLATE
    settings.VoilaExecutor.startup_timeout = _START_SECONDS
    settings.MultiKernelManager.default_kernel_name = "python3"
    settings.MappingKernelManager.cull_idle_timeout = _IDLE_SECONDS
    settings.MappingKernelManager.cull_interval = 60
    app = Voila(config=settings)
    app.initialize([str(notebook)])
    print(f"the explorer: http://{HOST}:{port}/?token={token}   (Ctrl+C ends it)", flush=True)
    app.start()


def _split_model(text: str) -> tuple[str, str]:
    label, sign, reference = text.partition("=")
    if not (label and sign and reference):
        raise ValueError(f"--model {text!r} is no LABEL=MODEL, such as mine=my_model.py:MyModel")
    file, sign, name = reference.partition(":")
    # The page's kernel starts in another folder than this command.
    return label, f"{Path(file).resolve()}{sign}{name}" if Path(file).exists() else reference


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="visdyn play", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml; its models, else its data/pack")
    parser.add_argument("--chain", type=int, help="whose models; the first by default")
    parser.add_argument("--model", action="append", default=[], metavar="LABEL=MODEL",
                        help="a further forward-dynamics model: folder, hub id, or my_model.py:MyModel")  # fmt: skip
    parser.add_argument("--port", type=int, default=8866)
    parser.add_argument("--no-browser", action="store_true", help="print the address, open nothing")
    return parser
