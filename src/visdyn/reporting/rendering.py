"""The call that makes every table and figure of the map of items, and what became of each."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from visdyn.reporting import names, provenance, published, roster, tables
from visdyn.reporting.builders import FIGURES, SCHEMATICS, TABLES
from visdyn.reporting.figures import style
from visdyn.reporting.items import RECORDED, Item, ItemMap
from visdyn.reporting.results import EVALUATIONS, ResultError, Results
from visdyn.reporting.tables import judge_tables, segments
from visdyn.reporting.tables.comparison import COMPARED, CONTRADICTS, FULL, INTERPRETATION, REPRODUCED, SMALLER


@dataclass
class Outcome:
    """What became of one item.

    Attributes:
        item: the item.
        status: one of `items.STATUSES`; `not run` where results are missing.
        reason: why it was not run, or "".
        table: the comparison or plain frame, None where there is none; of the systems that the paper lists, and of the
            baselines.
        kit: the same for the kit's further systems (and the baselines), None where there are none.
        roster: what became of every system that the paper's table lists (`roster.of_table`), None where it lists none.
        files: what was written.
        edited: which of its results were edited since their stage ran (`Results.edited`), "" where none was.
        n, chains: range of items a cell and of chains, as text, "" where unknown.
        cells: status -> number of cells of a run of this kit, in all tables of the item.
        recorded: status -> number of cells that were recomputed from the authors' recorded replies; counted apart.
        left_out: models that could not be loaded, each with its reason.
        tiny: whether rows or columns of its table are of tiny models that stand for the paper's.
    """

    item: Item
    status: str
    reason: str = ""
    table: pd.DataFrame | None = None
    kit: pd.DataFrame | None = None
    roster: pd.DataFrame | None = None
    files: list[Path] = field(default_factory=list)
    edited: str = ""
    n: str = ""
    chains: str = ""
    cells: dict[str, int] = field(default_factory=dict)
    recorded: dict[str, int] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    tiny: bool = False

    @property
    def whose(self) -> str:
        """Whose values its table holds, as the table's footnote begins."""
        whose = "From the authors' recorded replies" if self.item.status == RECORDED else tables.OURS
        known = [
            "tiny: trained here, of the architecture of what it stands for, whose value is in brackets"
        ] * self.tiny
        known += [self.edited] if self.edited else []
        return f"{whose} ({'; '.join(known)})" if known else whose

    @property
    def recorded_text(self) -> str:
        """The cells of `recorded` in words, as `24 reproduced, 6 contradicts`; "" where there are none."""
        return _count_in_words(self.recorded)

    @property
    def compared_text(self) -> str:
        """The cells of `cells` that were compared with a printed value, in words; "" where none was."""
        return _count_in_words({status: self.cells[status] for status in COMPARED if status in self.cells})


def build_item(item: Item, results: Results, reports: Path, repository: Path, strict: bool = False) -> Outcome:
    """Write an item's table and figure; where its results are missing or unfit, say so in the outcome.

    Args:
        strict: raise a builder's error instead of turning it into `not run` with the error as reason.
    """
    numbers = published.load(item.published, repository) if item.published else None
    view = results.view(item.files)
    if problem := item.problem(view):
        return _not_run(item, problem, numbers, reports, view, repository)
    try:
        outcome = Outcome(
            item, _figure_status(item, view), **_figure_sizes(item, view), left_out=_list_left_out(item, view)
        )
        outcome.edited = view.edited(item.files)
        _write_table(outcome, view, numbers, reports, repository)
        _write_figure(outcome, view, reports, repository)
    except Exception as error:
        if strict and not isinstance(error, ResultError):
            raise
        reason = str(error) if isinstance(error, ResultError) else f"{type(error).__name__}: {error}"
        return _not_run(item, reason, numbers, reports, view, repository)
    return outcome


def build_items(
    profile: str | Path,
    item_map: ItemMap,
    repository: str | Path,
    strict: bool = False,
    beside: Sequence[str | Path] = (),
    reports: Path | None = None,
) -> list[Outcome]:
    """Write all tables and figures of a profile into `reports/tables` and `reports/figures`, in the map's order.

    Tables and figures of an earlier run whose item is now not run are removed, so that none is shown as current.

    Args:
        beside: profiles of other families whose models stand in the same tables.
        reports: where `tables` and `figures` are written (default: the profile's `reports`).
    """
    profile, repository = Path(profile).resolve(), Path(repository).resolve()
    reports = reports or profile / "reports"
    for folder in ("tables", "figures"):
        (reports / folder).mkdir(parents=True, exist_ok=True)
    others = tuple(open_results(other, repository) for other in beside)
    results = replace(open_results(profile, repository), beside=others)
    outcomes = [build_item(item, results, reports, repository, strict) for item in item_map]
    _remove_stale(outcomes, item_map, reports)
    return outcomes


def open_results(profile: str | Path, repository: str | Path) -> Results:
    """Return a profile's results with what they were measured on."""
    setting = roster.read_setting(profile, repository)
    return Results(Path(profile).resolve(), repository=Path(repository), setting=setting)


def status_frame(outcomes: list[Outcome]) -> pd.DataFrame:
    """Return one row an item: id, paper, label, title, stage, status, reproduced and recorded (cells), n, ...files."""
    rows = [
        {
            "id": outcome.item.id,
            "paper": outcome.item.paper,
            "label": outcome.item.label,
            "title": outcome.item.title,
            "stage": outcome.item.stage,
            "status": outcome.status,
            **{status: outcome.cells.get(status, 0) for status in COMPARED},
            "recorded": outcome.recorded_text,
            "n": outcome.n,
            "chains": outcome.chains,
            "edited": outcome.edited,
            "reason": outcome.reason,
            "files": " ".join(path.name for path in outcome.files),
        }
        for outcome in outcomes
    ]
    return pd.DataFrame(rows)


def _write_table(
    outcome: Outcome, view: Results, numbers: pd.DataFrame | None, reports: Path, repository: Path
) -> None:
    item = outcome.item
    builder = TABLES.get(item.id) if item.table else None
    frame = builder(view, numbers, outcome.status) if builder else None
    if frame is None:
        return
    frame = _fill_roster(outcome, frame, numbers, view, repository)
    outcome.table, outcome.kit = _split_systems(frame, item, numbers)
    outcome.table = _name_stand_ins(outcome, view, repository)
    outcome.files += tables.write(
        outcome.table, item.table, reports / "tables", outcome.roster, outcome.whose, f"{item.label}: {item.title}"
    )
    inputs = [path for path in _input_paths(item, view, repository) if path.is_file()]
    hashes = provenance.input_hashes(inputs, view.profile, repository), outcome.edited
    outcome.files.append(provenance.write_sidecar(reports / "tables" / f"{item.table}.json", *hashes))
    if outcome.kit is not None:
        title = f"{item.label}, the kit's further systems: {item.title}"
        outcome.files += tables.write(outcome.kit, item.kit_table, reports / "tables", whose=outcome.whose, title=title)
        outcome.files.append(provenance.write_sidecar(reports / "tables" / f"{item.kit_table}.json", *hashes))
    if item.status == RECORDED and "n" in frame.columns:
        outcome.n = _format_range(frame["n"])
    if "status" in frame.columns and "value" in frame.columns:
        mine = frame[frame["value"].notna()]
        outcome.n, outcome.chains = (
            _format_range(mine["n"]) or outcome.n,
            _format_range(mine["chains"]) or outcome.chains,
        )
        if item.status == RECORDED:
            outcome.recorded = mine["status"].value_counts().sort_index().to_dict()
        else:
            outcome.cells = mine["status"].value_counts().sort_index().to_dict()
            outcome.status = _table_status(frame, outcome.status)


def _split_systems(
    frame: pd.DataFrame, item: Item, numbers: pd.DataFrame | None
) -> tuple[pd.DataFrame, pd.DataFrame | None]:
    """Return the paper's systems, and the kit's further ones or None; those without a model stand in both."""
    if not item.kit_table or numbers is None:
        return frame, None
    labels = frame[item.systems]
    printed = labels.isin(numbers[item.systems]) | labels.isin(labels[frame["published"].notna()])
    baseline = labels.str.startswith(names.BASELINES)
    if (printed | baseline).all():
        return frame, None
    kit = frame[~printed]
    measured = kit.groupby(["panel", "row"])["value"].transform("count") > 0
    return frame[printed | baseline], kit[measured]


def _name_stand_ins(outcome: Outcome, view: Results, repository: Path) -> pd.DataFrame:
    """Return the table with `tiny` before the names of our small models that share cells with the paper's large ones.

    `Chameleon-7B zero-shot` becomes `tiny Chameleon zero-shot`: the size is the paper's.
    """
    frame, item = outcome.table, outcome.item
    small = any("trained here" in how for how in view.setting.models.values())
    if not small or not item.systems or item.status == RECORDED:
        return frame
    systems = roster.load(repository)
    shared = frame[frame["value"].notna() & frame["published"].notna()]
    heads = {
        label: f"tiny {re.sub(r'[- ]?[(]?[0-9]+B[)]?', '', label)}"
        for label in dict.fromkeys(shared[item.systems])
        if (system := roster.named(label, item.paper, systems))
        and any(view.differs_in_model(item.paper, name) for name in system.kit)
    }
    outcome.tiny = bool(heads)
    return frame.assign(**{item.systems: frame[item.systems].replace(heads)})


def _table_status(frame: pd.DataFrame, planned: str) -> str:
    """Return a table's status: the least of its cells' beside a printed value, of all where there is none."""
    mine = frame[frame["value"].notna()]
    printed = mine[mine["published"].notna()]
    statuses = set((printed if len(printed) else mine)["status"])
    order = (SMALLER, INTERPRETATION, CONTRADICTS, FULL, REPRODUCED)
    return next((status for status in order if status in statuses), planned)


# Figure -> scores of judges that answer in words, of which the paper's must be one.
_JUDGED_FIGURES = {"b_figure4": "evaluation/candidate_judge_scores.csv", "b_figure11": "evaluation/judge_scores.csv"}


def _figure_status(item: Item, results: Results) -> str:
    """Return what a figure without a table is worth: what its map says, or full scale where data and models are so.

    One of a judge's scores is an interpretation until the paper's judge was asked the paper's prompt.
    """
    if file := _JUDGED_FIGURES.get(item.id):
        judged = results.read_or_none(file)
        if judged is None or not judge_tables.has_papers(judged, results, item.paper):
            return item.status
    elif item.status != SMALLER:
        return item.status
    if results.setting.data:
        return SMALLER
    made_by = {"probing": (), "mining": (), "base_models": ("base",), "doundo": ("doundo",), "idm_evaluation": ("idm",),
               "annotation": ("idm",), "evaluation_doundo": ("doundo",)}  # fmt: skip
    return SMALLER if results.setting.differs_in_model(*made_by.get(item.stage, ("fdm",))) else FULL


def _count_in_words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {status}" for status, count in counts.items())


def _write_figure(outcome: Outcome, view: Results, reports: Path, repository: Path) -> None:
    item = outcome.item
    if item.figure:
        inputs = [view.path(name) for name in item.files if view.path(name).is_file()]
        figure = FIGURES[item.id](view)
        roots = view.profile, repository
        outcome.files += style.save(figure, item.figure, reports / "figures", inputs, *roots, edited=outcome.edited)


def _fill_roster(
    outcome: Outcome, frame: pd.DataFrame, numbers: pd.DataFrame | None, view: Results, repository: Path
) -> pd.DataFrame:
    """Fill in the roster, and return the frame with what is missing in its cells' notes."""
    item = outcome.item
    if not item.systems or numbers is None:
        return frame
    systems = roster.load(repository)
    outcome.roster = roster.of_table(frame, numbers, item.systems, item.paper, view, systems)
    return roster.annotated(frame, item.systems, item.paper, systems)


def _not_run(
    item: Item, reason: str, numbers: pd.DataFrame | None, reports: Path, view: Results, repository: Path
) -> Outcome:
    """A table of the published values alone, so that the report still shows what is to be reached; or a schematic."""
    outcome = Outcome(item, "not run", reason, left_out=_list_left_out(item, view))
    if item.id in SCHEMATICS:
        outcome.files += style.save(SCHEMATICS[item.id](), item.figure, reports / "figures")
    if item.table and numbers is not None:
        empty = pd.DataFrame(columns=["panel", "row", "column", "value"])
        outcome.table = _fill_roster(outcome, tables.compare(empty, numbers, "not run"), numbers, view, repository)
        title = f"{item.label}: {item.title}"
        outcome.files += tables.write(outcome.table, item.table, reports / "tables", outcome.roster, title=title)
        path = published.folder(repository) / f"{item.published}.csv"
        hashes = provenance.input_hashes([path], repository)
        outcome.files.append(provenance.write_sidecar(reports / "tables" / f"{item.table}.json", hashes))
    return outcome


def _list_left_out(item: Item, view: Results) -> list[str]:
    tables = [view.read_or_none(name) for name in item.files if name.endswith("/missing.csv")]
    return [f"{names.spatial_model(row.model)}: {row.reason}"
            for table in tables if table is not None for row in table.itertuples()]  # fmt: skip


def _remove_stale(outcomes: list[Outcome], item_map: ItemMap, reports: Path) -> None:
    current = {path for outcome in outcomes for path in outcome.files}
    for item in item_map:
        ours = [reports / "tables" / f"{name}.{suffix}" for name in (item.table, item.kit_table)
                for suffix in ("csv", "md", "tex", "json") if name]  # fmt: skip
        ours += [reports / "figures" / f"{item.figure}.{suffix}" for suffix in ("png", "pdf", "json") if item.figure]
        for path in set(ours) - current:
            path.unlink(missing_ok=True)


def _input_paths(item: Item, view: Results, repository: Path) -> list[Path]:
    inputs = [view.path(name) for name in item.files]
    return [*inputs, published.folder(repository) / f"{item.published}.csv"] if item.published else inputs


def _figure_sizes(item: Item, view: Results) -> dict[str, str]:
    """n and chains behind a figure: distinct items of its first result, else the n that it states, else unknown; of an
    .npz its images.

    Where an item reads the same file of both papers' evaluations, the rows of both count.
    """
    name = next(name for name in item.files if view.path(name).is_file())
    if name.endswith(".npz"):
        return {"n": str(len(next(iter(view.arrays(name).values()))))}
    file = Path(name).name
    twins = {f"{stage}/{file}" for stage in EVALUATIONS.values()} <= set(item.files)
    frame = view.read_evaluations(file) if twins else view.read(name)
    if item.status == RECORDED:  # its results count replies themselves
        return {}
    if "source" in frame.columns and "count" in frame.columns:
        return {"n": _format_range(segments.totals(segments.of_split(view, "train")))}
    chains = str(frame["chain"].nunique()) if "chain" in frame.columns else ""
    if "selected" in frame.columns:  # what was selected is shown, a panel a data set
        shown = frame[frame["selected"] == 1].groupby(["dataset", "chain"]).size()
        return {"n": _format_range(shown), "chains": chains}
    if {"id", "video"} & set(frame.columns):
        keys = [key for key in ("subset", "dataset", "video", "pair", "id") if key in frame.columns]
        return {"n": str(len(frame[keys].drop_duplicates())), "chains": chains}
    return {"n": _format_range(frame["n"]) if "n" in frame.columns else "", "chains": chains}


def _format_range(values: pd.Series) -> str:
    values = values.dropna()
    if values.empty:
        return ""
    low, high = int(values.min()), int(values.max())
    return str(low) if low == high else f"{low} to {high}"
