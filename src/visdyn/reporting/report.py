"""The report: one self-contained HTML page of all items, published values beside ours.

No file beside it, no date; images, style and script are embedded, and nothing on the page needs the script. The commit
is printed only where it is passed in.
"""

from __future__ import annotations

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from jinja2 import Environment, FileSystemLoader, select_autoescape

from visdyn.evaluation.claims import VERDICTS
from visdyn.images import load
from visdyn.reporting import builders, ledger, provenance, published, roster, tables
from visdyn.reporting import items as item_module
from visdyn.reporting import rendering as outputs
from visdyn.reporting.figures import picture_grid
from visdyn.reporting.items import ItemMap
from visdyn.reporting.rendering import Outcome
from visdyn.reporting.results import ResultError, Results

ILLUSTRATION = "illustration"  # an item of a paper that holds no measurement is not a run that is missing
PORTRAIT_COLUMNS = 10  # tables with more are printed on a page across
FRONT = {"b_figure6": 3, "d_figure6": 3}  # galleries that open the page, and how many of their rows
# Paper -> its name where there is little room.
SHORT = {"B": "Bootstrapping", "R": "Bootstrapping, recorded", "D": "Do-Undo", "K": "The kit's own checks"}
NUMBER_IN_TEXT = 12  # published values of figures are listed in full up to this many


def build(
    profile_path: str | Path,
    repository: str | Path | None = None,
    outcomes: list[Outcome] | None = None,
    commit: str | None = None,
    name: str = "index.html",
    claims: pd.DataFrame | None = None,
    reports: Path | None = None,
) -> Path:
    """Write `<profile>/reports/index.html` and return its path.

    Args:
        profile_path: folder of the profile.
        repository: checkout with data/published (default: the one this package runs from).
        outcomes: from `outputs.build_items`; built here where absent.
        commit: printed at the foot where given. Left out by default, so that the page's bytes depend on results only.
        name: file name under reports/.
        claims: from `ledger.build_ledger`; built here where absent.
        reports: folder of tables, figures and the page (default: the profile's `reports`).
    """
    profile = Path(profile_path).resolve()
    reports = Path(reports or profile / "reports").resolve()
    repository = Path(repository or published.folder().parents[1]).resolve()
    item_map = item_module.load(repository)
    if outcomes is None:
        outcomes = outputs.build_items(profile, item_map, repository, reports=reports)
    if claims is None:
        claims = ledger.build_ledger(Results(profile, repository=repository), repository)
    page = _page(profile, reports, repository, item_map, outcomes, claims, commit)
    path = reports / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page)
    return path


def build_all(
    profile_root: str | Path,
    repository: str | Path | None = None,
    commit: str | None = None,
    strict: bool = False,
    beside: Sequence[str | Path] = (),
    reports: str | Path | None = None,
) -> pd.DataFrame:
    """Write the ledger of claims, every table, every figure and the report of a profile; return the items' statuses.

    Args:
        profile_root: folder of the profile (its `reports/` is written, where no other folder is named).
        repository: checkout with data/published (default: the one this package runs from).
        commit: see `build`.
        strict: raise errors of builders; by default they become `not run` with the error as reason.
        beside: profiles of other families (Liquid beside Chameleon), whose models stand in the same tables; claims are
            decided on the first profile's results alone.
        reports: folder that is written instead of the profile's `reports/`.

    Returns:
        id, paper, label, title, stage, status, reproduced, contradicts, recorded, n, chains, reason, files.
    """
    repository = Path(repository or published.folder().parents[1]).resolve()
    reports = Path(reports or Path(profile_root) / "reports").resolve()
    outcomes = outputs.build_items(profile_root, item_module.load(repository), repository, strict, beside, reports)
    claims = ledger.build_ledger(Results(Path(profile_root), repository=repository), repository)
    ledger.write_ledger(claims, reports)
    build(profile_root, repository, outcomes, commit, claims=claims, reports=reports)
    return outputs.status_frame(outcomes)


def _page(
    profile: Path,
    reports: Path,
    repository: Path,
    item_map: ItemMap,
    outcomes: list[Outcome],
    claims: pd.DataFrame,
    commit: str | None,
) -> str:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=select_autoescape(default=True),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["slug"] = lambda text: re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
    shown = Counter(_shown_status(outcome) for outcome in outcomes)
    counts = {status: shown[status] for status in (*item_module.STATUSES, ILLUSTRATION)}
    results = Results(profile, repository=repository, setting=roster.read_setting(profile, repository))
    sections = [
        {
            "id": key,
            "short": SHORT.get(key, paper["title"]),
            **paper,
            "entries": [
                _entry(outcome, reports, repository, results) for outcome in outcomes if outcome.item.paper == key
            ],
        }
        for key, paper in item_map.papers.items()
    ]
    cells = sum((Counter(outcome.cells) for outcome in outcomes), Counter())
    recorded = sum((Counter(outcome.recorded) for outcome in outcomes), Counter())
    reference = ledger.read_reference(repository)
    printed = ledger.printed_rows(claims) if reference is None else ledger.printed_beside(claims, reference)
    page = environment.get_template("report.html.j2").render(
        claims=[
            {"head": item_map.papers[paper]["title"], "rows": own.to_dict("records")}
            for paper, own in printed.groupby(claims["paper"], sort=False)
        ],
        reference=reference is not None,
        verdicts={verdict: int((claims["verdict"] == verdict).sum()) for verdict in VERDICTS},
        front=_front(outcomes, results),
        stages=list(dict.fromkeys(outcome.item.stage for outcome in outcomes)),
        stand_ins=describe_stand_ins(results),
        claims_summary=ledger.summary(claims),
        sections=sections,
        counts=counts,
        cells={status: cells[status] for status in item_module.STATUSES if cells[status]},
        recorded_cells=dict(sorted(recorded.items())),
        versions=provenance.versions(),
        families=provenance.read_families(profile / "reports/machine.json"),
        profile=_profile_name(profile, repository),
        records=provenance.recorded_outputs(profile),
        edited=provenance.EDITED,
        commit=commit,
        text_numbers=_text_numbers(item_map, repository),
        needed="At full scale it needs" if roster.read_setting(profile, repository).data else "It needs",
    )
    return re.sub(r"\n\s*\n+", "\n", page)


def _shown_status(outcome: Outcome) -> str:
    """Return the item's status, where an illustration of the paper's is no failure to run it."""
    return ILLUSTRATION if outcome.status == "not run" and outcome.item.is_illustration else outcome.status


def _front(outcomes: list[Outcome], results: Results) -> list[dict]:
    """Return the first galleries that are there, each with its item's id and title."""
    found = []
    for outcome in outcomes:
        if (item := outcome.item).id in FRONT and (rows := _read_pictures(outcome, results, FRONT[item.id])):
            found.append({"id": item.id, "title": f"{SHORT[item.paper]}, {item.label}: {item.title}", "rows": rows})
    return found


def _read_pictures(outcome: Outcome, results: Results, max_rows: int = 6) -> list | None:
    """Return the rows of an item that is a gallery and was drawn, else None."""
    name = builders.GALLERIES.get(outcome.item.id)
    if name is None or outcome.status == "not run":
        return None
    try:
        return picture_grid.read_grid(results.arrays(f"{name}.npz"), max_rows)
    except ResultError:  # drawn by an earlier call, and gone since
        return None


def describe_stand_ins(results: Results) -> str:
    """Say whose models made the pictures, where they are not the papers'."""
    if not any("trained here" in how for how in results.setting.models.values()):
        return ""
    return ("The models are tiny ones of the papers' architectures, trained here from scratch; they are called by the "
            "names of what they stand for.")  # fmt: skip


def _entry(outcome: Outcome, reports: Path, repository: Path, results: Results) -> dict:
    """What the template prints of one item."""
    item = outcome.item
    # The executed copy is not in git: a link to it would be dead in a clone, and the page there another one than here.
    notebook = repository / "notebooks" / f"{item.notebook}.ipynb"
    linked = notebook.is_file() and reports.is_relative_to(repository)
    png = next((path for path in outcome.files if path.suffix == ".png"), None)
    frame = outcome.table
    comparison = frame is not None and set(tables.COLUMNS) <= set(frame.columns)
    frames = [part for part in (frame, outcome.kit) if part is not None] if comparison else []
    grids = [vars(tables.grid(part)) | {"footnote": tables.footnote(part, outcome.whose)} for part in frames]
    return {
        "item": item,
        "outcome": outcome,
        "recorded": outcome.recorded_text,
        "notebook": Path(os.path.relpath(notebook, reports)).as_posix() if linked else None,
        "status": _shown_status(outcome),
        "pictures": (pictures := _read_pictures(outcome, results)),
        "image": _embedded(png) if png and not pictures else None,
        "image_file": png.relative_to(reports).as_posix() if png else None,
        "grids": grids,
        "wide": any(len(grid["columns"]) > PORTRAIT_COLUMNS for grid in grids),
        "roster": None if outcome.roster is None else outcome.roster.to_dict("records"),
        "plain": None if comparison or frame is None else _plain_table(frame),
        "notes": [note for part in frames for note in _notes(part)],
        "printed": _printed(outcome, repository),
        "downloads": [path.relative_to(reports).as_posix() for path in outcome.files if path.suffix != ".json"],
    }


def _embedded(png: Path) -> str:
    """Return a figure for the page, in 256 colours: a quarter of the bytes; the file beside it has them all."""
    buffer = io.BytesIO()
    load(png).quantize(256).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def _notes(frame: pd.DataFrame) -> list[str]:
    """Notes on single cells, equal ones together: `MB / Copy: text`."""
    # What a system needs stands in the table's roster.
    frame = frame.assign(note=frame["note"].str.replace(rf"(; )?{roster.NOT_RUN}.*", "", regex=True))
    noted = frame[frame["note"] != ""]
    lines = []
    for note, cells in noted.groupby("note", sort=False):
        places = [" / ".join(filter(None, (cell.panel, cell.row, cell.column))) for cell in cells.itertuples()]
        where = places[0] if len(places) == 1 else f"{places[0]} and {len(places) - 1} more"
        lines.append(f"{where}: {note}")
    return lines


def _printed(outcome: Outcome, repository: Path) -> list[str]:
    """Published numbers of an item that has no table of ours, as lines of text."""
    item = outcome.item
    if not item.published or outcome.table is not None:
        return []
    numbers = published.load(item.published, repository)
    lines = [
        " / ".join(filter(None, (cell.panel, cell.row, cell.column))) + f": {tables.number(cell.value, cell.digits)}"
        + (f" ({cell.note})" if cell.note else "")
        for cell in numbers.itertuples()
    ]  # fmt: skip
    more = len(lines) - NUMBER_IN_TEXT
    return lines if more <= 0 else [*lines[:NUMBER_IN_TEXT], f"and {more} more in data/published/{item.published}.csv"]


def _plain_table(frame: pd.DataFrame) -> dict:
    return {
        "heads": list(frame.columns),
        "rows": [[(_text(value), isinstance(value, str)) for value in row] for row in frame.itertuples(index=False)],
        "left": [bool(len(frame)) and all(isinstance(value, str) for value in frame[name]) for name in frame.columns],
    }


def _text(value: object) -> str:
    if isinstance(value, float):
        return tables.DASH if pd.isna(value) else f"{value:.4g}"
    return str(value)


def _text_numbers(item_map: ItemMap, repository: Path) -> list[dict]:
    """The numbers that the papers state in their text (`b_text.csv`, `d_text.csv`)."""
    known = set(published.names(repository))
    return [
        {"paper": paper["title"], "rows": published.load(name, repository).to_dict("records")}
        for key, paper in item_map.papers.items()
        if (name := f"{key.lower()}_text") in known
    ]


def _profile_name(profile: Path, repository: Path) -> str:
    if profile == repository:
        return "embedded default"
    return profile.relative_to(repository).as_posix() if profile.is_relative_to(repository) else profile.name
