"""Read the small results that stages leave in `<profile>/reports/results/`, and the arrays in `data/generated/`.

Results of real public data (`external/...`, written by `visdyn.stages.external`) belong to no profile: they lie at the
repository's root, and every profile reads them there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from visdyn.evaluation.measurements import VIEWS
from visdyn.reporting.names import CHAMELEON, is_of_family, split_family
from visdyn.reporting.provenance import EDITED, recorded_outputs
from visdyn.reporting.tables.comparison import Setting
from visdyn.result_tables import ResultTableError, check_whole, read_columns

EXTERNAL = "external/"
EVALUATIONS = {"B": "evaluation", "D": "evaluation_doundo"}  # paper -> the stage that measures its systems
_EMPTY = {
    "human_study": "no answers were exported; ask people with `make human-study STUDY=folder`, then name the exported "
    "CSV in human_study.exports",
    "robust": "run `make robust` after `make repro`",
    **{
        f"{stage}/judge_runs.csv": f"no judge that answers in words was asked; name one in {stage}.judges"
        for stage in EVALUATIONS.values()
    },
}


_EMBEDDED = Setting()
# Result -> its column of models that a family's name tells apart.
FAMILY_COLUMNS = {
    "probing/likelihoods.csv": "model",
    "probing/missing.csv": "model",
    "idm_evaluation/likelihoods.csv": "model",
    "idm_evaluation/text_metrics.csv": "model",
    "fdm/training.csv": "arm",
    "fdm/arms.csv": "arm",
    "verification/candidates.csv": "arm",
    "evaluation/candidate_scores.csv": "arm",
    "evaluation/candidate_judge_scores.csv": "arm",
    "evaluation/fdm_scores.csv": "system",
    "evaluation/judge_scores.csv": "system",
    "evaluation/judge_runs.csv": "system",
    "evaluation/systems.csv": "system",
    "evaluation/leaderboard.csv": "system",
    "spatial/accuracy.csv": "model",
    "spatial/missing.csv": "model",
    "human_study/table5.csv": "system",
}
# Scores of images -> the columns that tell one system's images apart: systems.csv beside them has their number.
IMAGES = {
    "evaluation/fdm_scores.csv": ["chain", "subset", "id"],
    "evaluation_doundo/doundo_scores.csv": ["chain", "direction", "reverse_from", "prompt", "id"],
}


class ResultError(RuntimeError):
    """A result is missing, empty, torn or not as declared in `result_tables`; the message names it."""


@dataclass(frozen=True)
class Results:
    """The results of one profile.

    Attributes:
        profile: folder of the profile.
        allowed: files that may be read through this view; None = all. A builder gets the view of its item,
            so that the map of items and what is really read cannot drift apart.
        repository: checkout that holds `external/...` (default: the profile itself).
        setting: what the profile measured on and with (`roster.read_setting`).
        beside: results of profiles of other families, whose models stand in the same tables; what is no family's
            (copies, editors) is the profile's own. A model of another family than Chameleon's is read as
            `liquid_<name>`, as systems.yaml calls it.
    """

    profile: Path
    allowed: frozenset[str] | None = None
    repository: Path | None = None
    setting: Setting = _EMBEDDED
    beside: tuple[Results, ...] = ()

    def path(self, name: str) -> Path:
        """Return where a result (`stage/name.csv`) or generated file (`stage/name.npz`) lies."""
        base = "data/generated" if name.endswith(".npz") else "reports/results"
        return self._root(name) / base / name

    def _root(self, name: str) -> Path:
        outside = self.repository is not None and name.startswith(EXTERNAL)
        return Path(self.repository if outside else self.profile)

    def view(self, names: Iterable[str]) -> Results:
        """Return the same results with only these files readable."""
        return replace(self, allowed=frozenset(names))

    def may_read(self, name: str) -> bool:
        """Tell whether this view holds a file, be it there or not."""
        return self.allowed is None or name in self.allowed

    def problem(self, name: str) -> str | None:
        """Return why a result cannot be used, or None where it can."""
        try:
            self.arrays(name) if name.endswith(".npz") else self.read(name)
        except ResultError as error:
            return str(error)
        return None

    def read(self, name: str) -> pd.DataFrame:
        """Return a result as a DataFrame, each column of its declared type (see `result_tables`).

        Raises:
            ResultError: missing, without rows, a column that is missing or not declared, a cell of another type, rows
                that are doubled or torn; in a file that was edited since its stage ran also rows that are missing or
                speak of what nothing else knows.
        """
        frame = self._read_families(name)
        if frame.empty:
            why = _EMPTY.get(name) or _EMPTY.get(Path(name).parts[0]) or "its stage had nothing to measure"
            raise ResultError(f"{name} has no rows: {why}")
        return frame

    def read_or_none(self, name: str) -> pd.DataFrame | None:
        """Return a result, or None where there is no such file or it has no rows (an item's optional files).

        Raises:
            ResultError: it is there and not as declared.
        """
        if self.may_read(name) and not self.path(name).is_file():
            return None
        frame = self._read_families(name)
        return None if frame.empty else frame

    def read_evaluations(self, file: str) -> pd.DataFrame:
        """Return a file that the evaluation of each paper writes, Bootstrapping's rows first; of those that are there.

        Raises:
            ResultError: none has rows, or one is not as declared.
        """
        names = [f"{stage}/{file}" for stage in EVALUATIONS.values()]
        parts = [part for name in names if self.path(name).is_file() and len(part := self._read_families(name))]
        if not parts:
            raise ResultError("; ".join(filter(None, map(self.problem, names))))
        return pd.concat(parts, ignore_index=True)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """Return the arrays of an .npz of `data/generated/` (images are uint8 (N, H, W, 3)).

        Raises:
            ResultError: missing, unreadable or without arrays.
        """
        path = self._existing(name)
        try:
            with np.load(path, allow_pickle=False) as file:
                arrays = {key: file[key] for key in file.files}
        except (OSError, ValueError) as error:
            raise ResultError(f"{name} cannot be read as .npz ({error}); run its stage again") from None
        if not arrays or not all(len(array) for array in arrays.values() if array.ndim):
            raise ResultError(f"{name} holds no images: its stage had nothing to show")
        return arrays

    def edited(self, names: Iterable[str]) -> str:
        """Say which of the outputs that results lie in were edited since their stage ran, "" where none was."""
        found = {
            output if one is self else f"{one.profile.name}/{output}"
            for one in (self, *self.beside)
            for name in names
            if one.path(name).is_file() and (output := one._edited_output(name))
        }
        return f"{EDITED}: {', '.join(sorted(found))}" if found else ""

    def differs(self, paper: str, name: str) -> str:
        """Return how a system's data or model differ from its paper's, "" where they do not."""
        return self._setting_of(name).data or self.differs_in_model(paper, name)

    def differs_in_model(self, paper: str, name: str) -> str:
        """Return how a system's model differs from the paper's, "" where it does not or is none of the kit's."""
        return self._setting_of(name).differs_in_model(*_stages_of(paper, split_family(name)[1]))

    def _setting_of(self, name: str) -> Setting:
        family = split_family(name)[0]
        return next((one.setting for one in self.beside if one.setting.family == family), self.setting)

    def _read_families(self, name: str) -> pd.DataFrame:
        """Return a result with the models of the profiles beside, each called by its family.

        Where a profile beside has measured its own base, it stands for the one of that name that was measured here.
        """
        own = self._read_typed(name)
        if (column := FAMILY_COLUMNS.get(name)) is None:
            return own
        parts = [_name_family(own, column, self.setting.family)]
        for other in self.beside:
            if other.path(name).is_file():
                part = other._read_typed(name)
                part = part[part[column].map(is_of_family)]
                parts.append(_name_family(part, column, other.setting.family))
                if (part[column] == "zero_shot").any():
                    parts[0] = parts[0][parts[0][column] != other.setting.base]
        return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]

    def _read_typed(self, name: str) -> pd.DataFrame:
        """Return a result with its declared types, be it without rows."""
        path = self._existing(name)
        output = self._edited_output(name)
        try:
            table = read_columns(name, path)
            if output:
                check_whole(name, table)
        except ResultTableError as error:
            edited = f"; {output} was {EDITED}" if output else ""
            raise ResultError(f"{error}{edited}; see docs/architecture.md") from None
        if output:
            self._refuse_unknown(name, table, f"{output} was {EDITED}: run that stage again, or restore it from git")
        return table

    def _edited_output(self, name: str) -> str | None:
        root = self._root(name)
        return recorded_outputs(root).edited_output_of(self.path(name).relative_to(root))

    def _refuse_unknown(self, name: str, table: pd.DataFrame, cure: str) -> None:
        """Refuse an edited table whose rows do not fit what else is known: words of its columns, images of a system."""
        view = VIEWS.get(name)
        words = {**view.values, "metric": tuple(view.units)} if view else {}
        for column in [column for column in words if column in table]:
            if unknown := set(table[column]) - set(words[column]):
                raise ResultError(f"{name}, column {column}: {min(unknown)!r} is no word that a stage writes; {cure}")
        systems = f"{Path(name).parts[0]}/systems.csv"
        if name not in IMAGES or not self.path(systems).is_file():
            return
        try:
            found = read_columns(systems, self.path(systems)).set_index("system")["found"]
        except ResultTableError as error:
            raise ResultError(f"{error}; {cure}") from None
        counts = table[["system", *IMAGES[name]]].drop_duplicates().groupby("system").size()
        for system in sorted(set(counts.index) | set(found[found > 0].index)):
            scored, made = int(counts.get(system, 0)), int(found.get(system, 0))
            if scored != made:
                raise ResultError(f"{name} has scores of {scored} images of {system}, {systems} counts {made}; {cure}")

    def _existing(self, name: str) -> Path:
        if not self.may_read(name):
            raise KeyError(f"{name} is not among this item's results in items.yaml; declare it there")
        path = self.path(name)
        if not path.is_file():
            stage = Path(name).parts[0]
            cure = f"`make {stage}`" if stage in ("external", "robust") else f"stage {stage}"
            raise ResultError(f"{path.relative_to(self._root(name)).as_posix()} is missing; run {cure}")
        return path


def _name_family(frame: pd.DataFrame, column: str, family: str) -> pd.DataFrame:
    if family == CHAMELEON or frame.empty:
        return frame
    named = frame[column].map(lambda name: f"{family}_{name}" if is_of_family(name) else name)
    return frame.assign(**{column: named})


def _stages_of(paper: str, name: str) -> tuple[str, ...]:
    """Return the stages whose models a system is made with; none where it is no model of the kit's."""
    if paper == "D":
        return ("generator",) if name == "base" else ("doundo",) if re.match("doundo(_c|$)", name) else ()
    if name in ("zero_shot", "tokenizer_ceiling"):
        return ("base",)
    if not is_of_family(name):
        return ()
    labelled = name.startswith("synthetic") or "_best_of_" in name
    return ("idm",) if name.startswith("idm") else ("fdm", "idm") if labelled else ("fdm",)
