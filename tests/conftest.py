"""A tiny random unified model on disk, shared by the tests of the token models."""

from __future__ import annotations

import os
import shutil
from fnmatch import fnmatchcase

from visdyn.pipeline.arithmetic import PASS, PASSED, apply

# Beside what a stage gets: of whoever runs the tests. All else stays outside, a git hook's GIT_DIR, a terminal's width.
OWN = ("PYTEST_*", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "COVERAGE_*", "COV_*", "HYPOTHESIS_*", "PLAYWRIGHT_*", "CI",
       "JUPYTER_PREFER_ENV_PATH", *os.environ.get(PASS, "").split(","))  # fmt: skip


def leave_out_foreign() -> None:
    """Take out of this process's environment what no stage would get."""
    for name in list(os.environ):
        if not any(fnmatchcase(name, pattern) for pattern in (*PASSED, *OWN)):
            del os.environ[name]
    if not os.path.isdir(os.environ.get("TMPDIR", "/")):
        del os.environ["TMPDIR"]


os.environ.setdefault("HF_HUB_OFFLINE", "1")
SAID = apply()  # before torch and numpy choose their kernels
leave_out_foreign()

import numpy as np  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402
from tiny_tokens import NUM_CODES, tiny_vqgan  # noqa: E402

torch.set_num_threads(1)


# The files that take minutes, longest first: begun last, one process would run them while the other waits.
LONGEST = ("test_dvc.py", "test_rehearsal.py", "test_evaluation_notebook.py")


def pytest_collection_modifyitems(items):
    """Begin with the long files; the order within a file, and of all others, stays."""
    rank = {name: place for place, name in enumerate(LONGEST)}
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: (rank.get(item.path.name, len(LONGEST)), item.path not in slow))


def pytest_terminal_summary(terminalreporter):
    """Say what of the shell's environment did not reach the tests."""
    for line in SAID:
        terminalreporter.write_line(line)


WORDS = ["edit", "infer", "open", "close", "take", "put", "on", "off", "left", "right"]
WORDS += ["the", "red", "blue", "green", "drawer", "cup", "lamp"]


def build_tiny_model(seed: int = 0, words=WORDS, vqgan=None):
    """Build a `UnifiedModel`: 2 layers of width 32, by default 16 image codes, 16 x 16 pixels to 4 x 4 codes."""
    from visdyn.models.token.chameleon import ChameleonLM, tiny_config
    from visdyn.models.token.sequences import SequenceBuilder
    from visdyn.models.token.tokens import IMAGE, TokenLayout, build_tokenizer
    from visdyn.models.token.unified import UnifiedModel

    torch.manual_seed(seed)
    vqgan = vqgan or tiny_vqgan()
    tokenizer = build_tokenizer(words, vqgan.config.n_embed)
    layout = TokenLayout.of(tokenizer)
    placeholder = tokenizer.convert_tokens_to_ids(IMAGE)
    config = tiny_config(len(tokenizer), layout, placeholder, 32, 64, num_layers=2, num_heads=2)
    lm = ChameleonLM(config).eval()
    lm.lm_head.weight.data *= 20  # the library's initial weights leave every distribution almost uniform
    return UnifiedModel(lm, SequenceBuilder(tokenizer, layout, "edit {action}", "infer"), vqgan, "tiny")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """The folder of a saved tiny model; read only."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    build_tiny_model().save(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    """The tiny model as `load_model` reads it; read only."""
    from visdyn.models import load_model

    return load_model(tiny_folder)


@pytest.fixture(scope="session")
def scenes():
    """Twelve random images, uint8 (12, 16, 16, 3)."""
    return np.random.default_rng(0).integers(0, 256, (12, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="session")
def grids():
    """Twelve random grids of codes, int64 (12, 4, 4)."""
    return np.random.default_rng(1).integers(0, NUM_CODES, (12, 4, 4))


@pytest.fixture
def serve(monkeypatch):
    """Start fake endpoints (`fake_endpoint.FakeEndpoint`), and end them after the test; the key is in JUDGE_KEY."""
    from fake_endpoint import KEY, FakeEndpoint

    yield from serving(monkeypatch, FakeEndpoint, "JUDGE_KEY", KEY)


def serving(monkeypatch, kind, variable, key):
    """Yield what starts servers `kind(script)` on localhost, with their key in the environment; end them afterwards."""
    servers = []
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv(variable, key)

    def start(script):
        servers.append(kind(script))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def chromium():
    """A headless Chromium: `VISDYN_CHROMIUM`, the system's, or Playwright's own.

    Of one module, not of the session: while it is open, its event loop keeps others from theirs.
    """
    sync_api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed (pip install playwright)")
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("VISDYN_CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=path, args=sandbox)
        except sync_api.Error as error:
            pytest.skip(f"no Chromium can be started ({str(error).splitlines()[0]}); set VISDYN_CHROMIUM to one")
        yield browser
        browser.close()
