"""The map of paper items (`data/published/items.yaml`): table or figure -> stage, results, output, status."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from visdyn.reporting import published
from visdyn.reporting.results import Results
from visdyn.result_tables import TABLES
from visdyn.yaml_files import read_yaml

AXES = ("row", "column", "panel")
RECORDED = "recorded"  # computed from what the authors recorded (data/recorded), never by a run of this kit
STATUSES = ("reproduced", "contradicts", "full scale", "smaller scale", "interpretation", RECORDED, "not run")
PLANNED = ("smaller scale", "interpretation", RECORDED, "not run")  # the others are earned


class ItemError(ValueError):
    """The map of items is not consistent; the message names the item and the fault."""


@dataclass(frozen=True)
class Item:
    """One table, figure or algorithm of a paper.

    Attributes:
        id: `b_table2`: paper, kind and number; also the name of its published CSV where it prints numbers.
        paper: B (Bootstrapping), R (B's recorded replies), D (Do-Undo) or K (the kit's own checks).
        label, title: as the report prints them.
        stage, notebook: the stage that measures it and its notebook's stem.
        results, optional: files it is computed from; see the head of items.yaml.
        published: name of the CSV of printed numbers, "" where none are printed.
        systems: where its table lists systems (`row`, `column` or `panel`), "" where it lists none.
        table, figure: names of our outputs, "" where there is none.
        kit_table: name of the table of the kit's systems that the paper's table does not list, "" where it has none.
        status: what ours is worth once its results are there (`PLANNED`; a table's cells earn theirs).
        comparison: what is compared with the paper, in one sentence.
        instrument: the judge, encoders or estimator that our values come from.
        needs: what it would take to do better or to run it.
        contradictions: where the paper disagrees with itself.
    """

    id: str
    paper: str
    label: str
    title: str
    stage: str
    notebook: str
    status: str
    results: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    published: str = ""
    systems: str = ""
    table: str = ""
    kit_table: str = ""
    figure: str = ""
    comparison: str = ""
    instrument: str = ""
    needs: str = ""
    contradictions: tuple[str, ...] = ()

    @property
    def files(self) -> tuple[str, ...]:
        """All result files, required first."""
        return (*self.results, *self.optional)

    @property
    def is_illustration(self) -> bool:
        """Whether it holds no measurement: a drawing, a text or an interface of the paper."""
        return not self.files and self.needs.startswith("an illustration")

    def problem(self, results: Results) -> str | None:
        """Return why the item cannot be computed from these results, or None where it can."""
        if self.status == "not run" or not self.files:
            return self.needs
        problems = [problem for name in self.results if (problem := results.problem(name))]
        if not self.results:
            found = [results.problem(name) for name in self.optional]
            problems = [] if None in found else [problem for problem in found if problem]
        return "; ".join(problems) or None


@dataclass(frozen=True)
class ItemMap:
    """All items, the stages' notebooks, and the papers' titles."""

    items: tuple[Item, ...]
    stages: dict[str, str]
    papers: dict[str, dict[str, str]] = field(default_factory=dict)

    def __iter__(self):
        return iter(self.items)

    def __getitem__(self, name: str) -> Item:
        for item in self.items:
            if item.id == name:
                return item
        raise KeyError(f"no paper item {name!r} in items.yaml")


def load(repository: str | Path | None = None) -> ItemMap:
    """Read and check the map of a checkout (default: the one this package runs from).

    Raises:
        ItemError: an item without a known stage, with an unknown result file, status, field or published CSV, a
            duplicate id, or one that claims to be run without results and a comparison.
    """
    path = published.folder(repository) / "items.yaml"
    content = read_yaml(path)
    stages = content["stages"]
    items = tuple(_make_item(dict(entry), stages) for entry in content["items"])
    known = set(published.names(repository))
    seen: set[str] = set()
    for item in items:
        _check_item(item, known)
        if item.id in seen:
            raise ItemError(f"item {item.id} stands twice in items.yaml; keep one")
        seen.add(item.id)
    return ItemMap(items, stages, content["papers"])


def _make_item(entry: dict, stages: dict[str, str]) -> Item:
    name = entry.get("id", "<no id>")
    stage = entry.get("stage")
    if stage not in stages:
        raise ItemError(f"item {name} has stage {stage!r}; every item needs one of {', '.join(stages)}")
    entry.setdefault("paper", str(name)[:1].upper())
    lists = {key: tuple(entry.pop(key, ())) for key in ("results", "optional", "contradictions")}
    try:
        return Item(**entry, **lists, notebook=stages[stage])
    except TypeError as error:
        raise ItemError(f"item {name} in items.yaml: {error}") from None


def _check_item(item: Item, published_names: set[str]) -> None:
    unknown = [name for name in item.files if name not in TABLES and not name.endswith(".npz")]
    if unknown:
        raise ItemError(f"item {item.id} is computed from {unknown[0]}, which no stage writes; see result_tables.py")
    if item.published and item.published not in published_names:
        raise ItemError(f"item {item.id} names published numbers {item.published}, but data/published has no such CSV")
    if item.systems and (item.systems not in AXES or not item.published):
        raise ItemError(
            f"item {item.id} has systems {item.systems!r}; write one of {', '.join(AXES)} of a published CSV"
        )
    if item.status not in PLANNED:
        raise ItemError(f"item {item.id} has status {item.status!r}; write one of {', '.join(PLANNED)}")
    if item.status == "not run" and not item.needs:
        raise ItemError(f"item {item.id} is not run; say in `needs` what it would take")
    if item.status != "not run" and not (item.files and item.comparison and (item.table or item.figure)):
        raise ItemError(f"item {item.id} claims {item.status!r}; it needs results, a comparison and a table or figure")
