"""The project's page: made of results alone, whole without a script, no wider than a telephone."""

from __future__ import annotations

import re

import pandas as pd
import pytest

from visdyn.commands import draw_film, write_page
from visdyn.commands.write_page import GALLERY, OUT, ROWS, build_page, count_verdicts
from visdyn.explorer.pack import FOLDER, unpack_galleries
from visdyn.paths import repository_root
from visdyn.reporting import ledger, roster
from visdyn.reporting.results import Results

ROOT = repository_root()


def without_images(page: str) -> str:
    return re.sub(r'src="data:[^"]*"', "", page)


@pytest.fixture(scope="module")
def results():
    return Results(ROOT, repository=ROOT, setting=roster.read_setting(ROOT, ROOT))


@pytest.fixture(scope="module")
def claims(results):
    return ledger.build_ledger(results, ROOT)


@pytest.fixture
def build(results, claims, monkeypatch, tmp_path):
    """Build the page of a ledger, with the pictures of the committed pack."""
    unpack_galleries(ROOT / FOLDER, tmp_path)
    gallery = Results(tmp_path).arrays(f"{GALLERY}.npz")

    def build(own: pd.DataFrame) -> str:
        monkeypatch.setattr(ledger, "build_ledger", lambda *_: own)
        return build_page(results, gallery, (ROOT / OUT).parent)

    return lambda own=claims: build(own)


def test_the_committed_page_is_made_of_the_committed_results(build):
    assert without_images(build()) == without_images((ROOT / OUT).read_text()), (
        f"reports/results and {OUT} do not belong together: run `visdyn page`"
    )


def test_another_ledger_makes_another_page(build, claims):
    page, turned = build(), build(claims.assign(verdict="fails"))
    badges = re.findall(r'<td><span class="badge ([a-z-]+)">', page)
    assert len(badges) >= len({claim.id for claim in ledger.load_claims() if claim.leads})
    assert len(set(badges)) > 1
    assert set(re.findall(r'<td><span class="badge ([a-z-]+)">', turned)) == {"fails"}


def test_verdicts_are_counted_by_evidence():
    claims = pd.DataFrame({"evidence": ["real", "kitchen", "kitchen"], "verdict": ["holds", "fails", "fails"]})
    assert count_verdicts(claims) == {
        "kitchen": {"holds": 0, "fails": 2, "undecided": 0, "not measured": 0},
        "real": {"holds": 1, "fails": 0, "undecided": 0, "not measured": 0},
    }


def test_the_page_asks_nobody_and_needs_no_script():
    page = (ROOT / OUT).read_text()
    assert "<script" not in page
    sources = re.findall(r'(?:src|srcset)="([^"]*)"|url\(([^)]*)\)|@import', page)
    assert not [one for one, _ in sources if re.match(r"(https?:)?//", one)]
    assert page.count('src="data:image/') >= ROWS * 4
    assert draw_film.OUT.rpartition("/")[2] in page


def test_another_profile_must_name_a_file(tmp_path, capsys):
    with pytest.raises(SystemExit):
        write_page.main(["--profile", str(ROOT / "profiles/smoke")])
    assert "needs --out" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1400])
def test_nothing_stands_wider_than_the_window(chromium, width):
    phone = width < 600
    context = chromium.new_context(viewport={"width": width, "height": 900}, is_mobile=phone, has_touch=phone,
                                   java_script_enabled=False)  # fmt: skip
    view = context.new_page()
    view.goto((ROOT / OUT).as_uri())
    for part in ("main", "table.evidence", "table.leading", "figure.film", "pre", "ul.doors"):
        box = view.locator(part).bounding_box()
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width, part
    context.close()
