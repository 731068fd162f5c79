"""The pages: no dead link, no command or option that does not exist, and a tutorial whose steps work."""

from __future__ import annotations

import contextlib
import hashlib
import html
import io
import json
import os
import re
import shlex
import subprocess
import sys
import textwrap
import urllib.parse
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from visdyn import cli
from visdyn.commands import check_plugin, probe_model, write_page
from visdyn.paths import repository_root
from visdyn.yaml_files import read_yaml

ROOT = repository_root()
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TUTORIAL = (ROOT / "docs/tutorial.md").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)


def find_links(text: str) -> list[str]:
    """Return the targets of a page's links and pictures, of Markdown and of HTML, but not those inside code."""
    prose = re.sub(r"(?m)^(?: {4}|\t).*$|`[^`\n]*`", "", text)
    return re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r"(?:src|href)=\"([^\"]+)\"", prose)


@cache
def find_anchors(page: Path) -> frozenset[str]:
    """Return the anchors that GitHub gives a page's headings; a heading that comes again gets a number."""
    prose = re.sub(r"(?ms)^```.*?^```|^ {4}.*?$", "", page.read_text())
    anchors: list[str] = []
    for heading in re.findall(r"(?m)^#{1,6} +(.+?)\s*$", prose):
        plain = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        anchors.append(plain if plain not in anchors else f"{plain}-{anchors.count(plain)}")
    return frozenset(anchors)


def find_commands(text: str, program: str) -> list[str]:
    """Return a page's calls of a program: lines of indented code, continued ones joined, and `code` in prose."""
    text = re.sub(r"\\\n\s*", "", text)
    lines = re.findall(rf"(?m)^ {{4,}}(?:[A-Z_]+=\S+ )*({program} .*)$", text)
    return [re.sub(r"\s+#.*$", "", line) for line in lines] + re.findall(
        rf"`(?:[A-Z_]+=\S+ )*({program} [^`\n]+)`", text
    )


@cache
def list_options(command: str) -> frozenset[str]:
    """Return the options that a command's own help has, those of its subcommands too."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        cli.main([*command.split(), "--help"])
    found = set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", shown.getvalue()))
    for sub in re.findall(r"(?m)^ +\{([\w,-]+)\}$", shown.getvalue()):
        for name in sub.split(","):
            with contextlib.redirect_stdout(shown := io.StringIO()), contextlib.suppress(SystemExit):
                cli.main([*command.split(), name, "--help"])
            found |= set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", shown.getvalue()))
    return frozenset(found)


@each_page
def test_no_link_of_a_page_is_dead(page):
    for link in find_links(page.read_text()):
        path, _, anchor = urllib.parse.unquote(link).partition("#")
        if re.match(r"[a-z]+:", path):
            continue  # another site's; no test of ours asks for it
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name} links to {link}, which does not exist"
        assert target.is_relative_to(ROOT), f"{page.name} links to {link}, outside of the repository"
        assert not anchor or anchor in find_anchors(target), f"{page.name} links to {link}: no such heading"


def list_dead_links(page: Path, there: frozenset[str]) -> list[str]:
    """Return the links of an HTML page to files and places that are not there, `there` being paths from the root."""
    text = page.read_text()
    places = set(re.findall(r'\bid="([^"]+)"', text))
    dead = []
    for link in sorted(set(re.findall(r'(?:src|href)="([^"]*)"', text))):
        path, _, anchor = urllib.parse.unquote(html.unescape(link)).partition("#")
        if re.match(r"[a-z]+:", path):
            continue  # another site's, or the picture itself
        target = os.path.relpath(os.path.join(page.parent, path), ROOT) if path else ""
        if (path and target not in there) or (not path and anchor and anchor not in places):
            dead.append(link)
    return dead


def test_no_link_of_the_committed_report_is_dead():
    lock = read_yaml(ROOT / "dvc.lock")["stages"]["figures"]["deps"]
    known = {Path(dep["path"]).name: dep["md5"] for dep in lock if "/reporting/" in dep["path"] and "md5" in dep}
    if known["report.py"] != hashlib.md5((ROOT / "src/visdyn/reporting/report.py").read_bytes()).hexdigest():
        pytest.skip("the committed report was built by other code than this; `make figures` builds it")
    assert list_dead_links(ROOT / "reports/index.html", list_files()) == []


def test_no_link_of_the_project_s_page_is_dead():
    assert list_dead_links(ROOT / write_page.OUT, list_files()) == []


def list_files() -> frozenset[str]:
    """Return the paths that git has."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return frozenset(listed.splitlines())


def test_a_dead_link_of_a_report_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "reports/index.html"
    page.parent.mkdir()
    page.write_text(
        '<a href="#here">1</a><p id="here"><a href="#gone">2</a><a href="../notebooks/a.ipynb">3</a>'
        '<a href="notebooks/b.html">4</a><img src="data:image/png;base64,xx"><a href="https://arxiv.org/abs/1">5</a>'
        '<img src="figures/c%20d.png">'
    )
    there = frozenset({"notebooks/a.ipynb", "reports/figures/c d.png"})
    assert list_dead_links(page, there) == ["#gone", "notebooks/b.html"]


def test_a_dead_link_would_be_seen(tmp_path):
    text = (
        '# A b\n\n## A b\n\n[one](x.md#a-b) [two](#a-b-1) <img src="no.png"> `[code](gone.md)`\n\n    [code](gone.md)\n'
    )
    (tmp_path / "x.md").write_text(text)
    assert find_links(text) == ["x.md#a-b", "#a-b-1", "no.png"]
    assert find_anchors(tmp_path / "x.md") == {"a-b", "a-b-1"}


def test_every_page_is_reached_from_the_index():
    index = {
        (ROOT / "docs" / link.partition("#")[0]).resolve() for link in find_links((ROOT / "docs/index.md").read_text())
    }
    assert set(PAGES) - {ROOT / "docs/index.md"} <= index
    assert "docs/index.md" in find_links((ROOT / "README.md").read_text())


@each_page
def test_every_visdyn_command_of_a_page_exists_with_its_options(page):
    for line in find_commands(page.read_text(), "visdyn"):
        words = [word for word in re.split(r"\s+", line)[1:] if word not in ("...", "|")]
        if words[0].isupper() or words[0].startswith("--"):
            continue  # COMMAND, --help, --traceback
        command = " ".join(words[:2]) if " ".join(words[:2]) in cli.COMMANDS else words[0].rstrip(",;:")
        assert command in cli.COMMANDS or any(name.startswith(f"{command} ") for name in cli.COMMANDS), (
            f"{page.name}: {line}"
        )
        for option in (word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)):
            assert option == "--help" or option in list_options(command), f"{page.name}: {line}: no option {option}"


@each_page
def test_every_make_target_of_a_page_exists(page):
    for line in find_commands(page.read_text(), "make"):
        target = line.split()[1].rstrip(",;:")
        assert target in TARGETS, f"{page.name}: {line}"


def test_an_unknown_command_or_option_would_be_seen():
    text = "    VISDYN_HARDWARE=x visdyn run a \\\n        --only   # why\n\nand `visdyn score F --bench x`\n"
    assert find_commands(text, "visdyn") == ["visdyn run a --only", "visdyn score F --bench x"]
    assert {"--only", "--force", "--profile"} <= list_options("run")
    assert "--no-such-option" not in list_options("run")
    assert {"--top-k", "--vocabulary"} <= list_options("mine")


def read_blocks() -> list[str]:
    """Return the tutorial's indented blocks of Python."""
    blocks = re.findall(r"(?m)(?:^(?: {4}.*)?\n)+", TUTORIAL)
    code = [textwrap.dedent(block).strip() for block in blocks if block.strip() and block.startswith(("    ", "\n"))]
    return [block for block in code if re.match(r"(import|from) ", block)]


@pytest.fixture
def kitchen(tmp_path, monkeypatch):
    """A folder like a clone's after `visdyn run world`: eight items of two subsets at `data/kitchen/aurora`."""
    root, rng = tmp_path / "data/kitchen/aurora", np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    items = []
    for number in range(8):
        for end in ("input", "output"):
            Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(root / f"images/{number}-{end}.png")
        items.append({"task": ("ag", "whatsup")[number % 2], "instruction": f"open item {number}",
                      "input": f"images/{number}-input.png", "output": f"images/{number}-output.png"})  # fmt: skip
    (root / "test.json").write_text(json.dumps(items))
    monkeypatch.chdir(tmp_path)
    return root


def test_the_tutorial_s_python_runs(kitchen, capsys):
    trajectories, model, copies = read_blocks()
    exec(compile(trajectories, "trajectories", "exec"), {})
    assert capsys.readouterr().out.startswith("8 ")
    exec(compile(copies, "copies", "exec"), {})
    assert len(list(Path("outputs/copy").rglob("*.png"))) == 8
    assert "class Brighter" in model


def test_the_tutorial_s_model_fits_and_is_probed(kitchen, capsys):
    Path("brighter.py").write_text(read_blocks()[1])
    assert not check_plugin.main(["brighter.py", "--size", "32"])
    command = next(line for line in find_commands(TUTORIAL, "visdyn") if line.startswith("visdyn probe"))
    assert not probe_model.main([*shlex.split(command)[2:], "--root", str(kitchen)])
    assert "copy_observation" in capsys.readouterr().out


def test_the_tutorial_names_files_that_a_clone_has():
    assert (ROOT / "reports/index.html").is_file()
    assert (ROOT / "reports/claims.md").is_file()
    assert (ROOT / "reports/metrics.json").is_file()


def test_the_forty_rows_are_forty_and_counted():
    page = (ROOT / "docs/forty.md").read_text()
    rows = re.findall(r"(?m)^\| (\d+) \| [^|]+ \| (yes|partly|no)\b[^|]* \| ([^|]+) \|$", page)
    assert [int(number) for number, *_ in rows] == list(range(1, 41))
    said = {word.lower(): int(n) for word, n in re.findall(r"(?i)\b(yes|partly|no) (\d+)", page.splitlines()[-1])}
    answers = [answer for _, answer, _ in rows]
    assert said == {word: answers.count(word) for word in ("yes", "partly", "no")}
    assert sum(said.values()) == 40
