"""`visdyn page`: the project's page, one HTML file that shows in a minute what came out.

Film, verdicts, pictures, two commands, links: the claims are those that lead the README, the pictures are rows of the
report's first gallery, the style is the report's. It needs neither a script nor a network. Its links to the report and
the docs are relative, so that it works in a checkout, and wherever a whole checkout is served.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from visdyn import reporting
from visdyn.commands import draw_film
from visdyn.evaluation.claims import KINDS, VERDICTS
from visdyn.paths import profile_root, repository_root, write_atomically
from visdyn.readers import read_rows
from visdyn.reporting import items, ledger, roster
from visdyn.reporting.figures import picture_grid
from visdyn.reporting.readme import lead_claims
from visdyn.reporting.report import SHORT, describe_stand_ins
from visdyn.reporting.results import Results

OUT = "docs/site/index.html"
GALLERY, ITEM, ROWS = "evaluation/fdm_examples", "b_figure6", 4  # what is shown of which item of the report
MINUTES = "benchmarks/results/stages.csv"


def build_page(results: Results, gallery: dict[str, np.ndarray], folder: Path) -> str:
    """Return the page of a profile's results.

    Args:
        results: of the profile, with `repository`, whose docs and film are linked, and the profile's setting.
        gallery: captions (N,) str, images uint8 (N, H, W, 3), `<key>_text` (N,) str.
        folder: where the page will lie; its links start there.
    """
    root, repository = results.profile, results.repository or results.profile
    templates = [Path(__file__).parent, Path(reporting.__file__).parent]
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    item_map, claims = items.load(repository), ledger.build_ledger(results, repository)
    film, leading = repository / draw_film.OUT, lead_claims(claims)
    leading["stands in"] = leading["stands in"].str.replace(
        r"^\w ", lambda paper: f"{SHORT[paper[0][0]]}, ", regex=True
    )
    return environment.get_template("page.html.j2").render(
        papers={SHORT[key]: paper for key, paper in item_map.papers.items() if paper["arxiv"]},
        film=film.is_file() and root == repository,
        film_path=draw_film.OUT,
        num_claims=claims["id"].nunique(),
        counts=count_verdicts(claims),
        verdicts=VERDICTS,
        leading=leading.to_dict("records"),
        item=next(item for item in item_map.items if item.id == ITEM),
        rows=picture_grid.read_grid(gallery, ROWS),
        stand_ins=describe_stand_ins(results),
        cpu_minutes=sum(float(row["cpu_minutes"]) for _, row in read_rows(repository / MINUTES, ("cpu_minutes",))),
        link=lambda path: os.path.relpath(repository / path, folder),
        report=lambda path: os.path.relpath(root / "reports" / path, folder),
    )


def count_verdicts(claims: pd.DataFrame) -> dict[str, dict[str, int]]:
    """Count claims: kind of evidence -> verdict -> number of rows of the ledger."""
    table = pd.crosstab(claims["evidence"], claims["verdict"])
    table = table.reindex(index=[kind for kind in KINDS if kind in table.index], columns=VERDICTS, fill_value=0)
    return {kind: {verdict: int(row[verdict]) for verdict in VERDICTS} for kind, row in table.iterrows()}


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the page of a profile."""
    parser = argparse.ArgumentParser(prog="visdyn page", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml")
    parser.add_argument("--out", type=Path, help=f"file to write ({OUT} for the root; others must name one)")
    options = parser.parse_args(arguments)
    root, repository = profile_root(options.profile), repository_root()
    if options.out is None and root != repository:
        parser.error(f"--profile {options.profile} needs --out: {OUT} is the root's, and its pictures go into git")
    path = (options.out or root / OUT).resolve()
    gallery = draw_film.read_galleries(root)[GALLERY]
    results = Results(root, repository=repository, setting=roster.read_setting(root, repository))
    page = build_page(results, gallery, path.parent)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, page.encode())
    print(f"{path}: {len(page.encode()) / 1024:.0f} KiB")
    return 0
