"""`Stage`: the paths, parameters, result tables and resume folders of one pipeline stage in one profile."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from visdyn.params import Params, load_params
from visdyn.params.runtime import choose_hardware
from visdyn.paths import UnsetVariableError, expanded, profile_root, repository_root, without_folders
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.tables import write_json, write_table
from visdyn.quarantine import Quarantine
from visdyn.readers import read_json
from visdyn.result_tables import check_columns, read_columns
from visdyn.training.runs import of_chain

RESULTS = "reports/results"
METRICS = "reports/metrics"  # apart from the results: DVC takes no metrics file inside a folder that is an output
REFERENCE = "reference.json"  # in a model folder that only names a checkpoint


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline in one profile.

    Attributes:
        name: the stage's name in dvc.yaml.
        profile: the profile as given, for example `.` or `profiles/smoke`.
        root: absolute folder of the profile; everything generated lies under it.
        repository: absolute root of the checkout (for `data/published`).
        params: the stage's own section of params.yaml; all of it for a notebook that is no stage.
        settings: all of params.yaml; `settings.runtime.hardware` is this stage's own file (`choose_hardware`).
    """

    name: str
    profile: str
    root: Path
    repository: Path
    params: Any
    settings: Params

    @property
    def seed(self) -> int:
        """The profile's seed."""
        return self.settings.seed

    @property
    def chains(self) -> tuple[int, ...]:
        """The profile's chains; a member of a chain has its seeds from `compute.seeds`, and its folder from `runs`."""
        return self.settings.chains

    @property
    def log(self) -> Path:
        """The file that training output goes to (created with its folder)."""
        path = self.root / ".visdyn/logs" / f"{self.name}.log"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        return path

    def path(self, rel: str) -> Path:
        """Return the absolute path of `rel`, a path inside the profile such as `models/base`.

        Raises:
            ValueError: `rel` is absolute or leads out of the profile.
        """
        if Path(rel).is_absolute() or ".." in Path(rel).parts:
            raise ValueError(f"{rel!r} leads out of profile {self.profile!r}; give one inside, as 'models/base'")
        return self.root / rel

    @property
    def kitchen(self) -> Path | None:
        """The rendered world, whose true states are known; None where the data are real (`world.kind: external`)."""
        return self.path("data/kitchen") if self.settings.world.kind == "kitchen" else None

    @property
    def device(self) -> str:
        """`cuda` or `cpu`, as `runtime.device` says; `auto` takes the accelerator where there is one."""
        wanted = self.settings.runtime.device
        if wanted != "auto":
            return wanted
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    def data(self, name: str) -> Path:
        """Return the root of a public data set named in section `data`, for example `aurora`.

        A relative path starts at the profile; `~` and environment variables (`$VISDYN_DATA/aurora`) are expanded.

        Raises:
            StageError: the section names no such data set or leaves it empty.
            UnsetVariableError: an environment variable in it is unset.
        """
        given = getattr(self.settings.data, name, "")
        if not given:
            raise StageError(f"stage {self.name} needs data.{name}; name its folder in {self.root / 'params.yaml'}")
        return self.located(given, f"data.{name}")

    @cached_property
    def folders(self) -> tuple[str, ...]:
        """Absolute folders that results never name: the checkout, the profile, its data, this environment, the home."""
        return known_folders(self.root, self.repository, self.settings)

    def quarantine(self) -> Quarantine:
        """Return an empty list of what is set aside: paths in it are relative, and `runtime.most_set_aside` holds."""
        return Quarantine(most=self.settings.runtime.most_set_aside, folders=self.folders)

    def in_chains(self, name_or_path: str) -> list[tuple[int, str]]:
        """Return (chain, reference) of a model that is measured: in every chain that has a run of its own.

        A model that serves every chain stands once, under the first: measured again it would count as another draw.
        """
        own = of_chain(self.root / name_or_path, self.chains[0]) is not None
        return [(chain, self.reference(name_or_path, chain)) for chain in (self.chains if own else self.chains[:1])]

    def located(self, path: str, name: str = "a path in params.yaml") -> Path:
        """Return a path of the parameters: `~` and `$NAME` expanded, a relative one from the profile.

        Raises:
            UnsetVariableError: an environment variable in it is unset; the message calls the path `name`.
        """
        return self.root / expanded(path, name)

    def reference(self, name_or_path: str, chain: int | None = None) -> str:
        """Return what `from_pretrained` takes: the profile's own folder where it exists, else the name (hub id).

        A folder that holds a `reference.json` (stage base_models, `base_models.references`) stands for what it names: a
        hub id, or a folder, in the profile where there is one of that name.

        Args:
            chain: takes this chain's run where the name stands for runs of chains (`training.runs.of_chain`); without
                it the first chain's is taken.

        Raises:
            FileNotFoundError: other chains have a run, this one has none.
        """
        inside = self.root / name_or_path
        inside = of_chain(inside, self.chains[0] if chain is None else chain) or inside
        if not inside.exists():
            return name_or_path
        pointer = inside / REFERENCE
        if pointer.is_file():
            name = read_json(pointer, dict)["name_or_path"]
            return str(self.root / name) if (self.root / name).is_dir() else name
        return str(inside)

    def results(self, name: str | None = None) -> Path:
        """Return the results folder of stage `name` (default: this stage, whose folder is created)."""
        folder = self.root / RESULTS / (name or self.name)
        if name in (None, self.name):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_table(self, table, rel: str, sort: bool = True) -> Path:
        """Write a `pandas.DataFrame` as `reports/results/<stage>/<rel>`, as `pipeline.tables.write_table` does.

        Raises:
            ResultTableError: its columns are not those that `result_tables` declares.
        """
        path = self._result_file(rel)
        check_columns(f"{self.name}/{rel}", table)
        write_table(table.assign(**dict(self._relative_texts(table))), path, sort)
        return path

    def write_json(self, value: Any, rel: str) -> Path:
        """Write plain values as `reports/results/<stage>/<rel>`, as `pipeline.tables.write_json` does."""
        path = self._result_file(rel)
        write_json(_map_texts(value, lambda text: without_folders(text, self.folders)), path)
        return path

    def write_metrics(self, table, keys: Sequence[str], value: str) -> Path:
        """Write `reports/metrics/<stage>.json`, the few numbers that `dvc metrics` shows: means of a column by name.

        Args:
            table: a `pandas.DataFrame`.
            keys: the columns whose values name a mean, from the outermost level to the innermost.
            value: the column of which means are taken; a mean of no number is null.
        """
        metrics: dict[str, Any] = {}
        for names, mean in table.groupby(list(keys))[value].mean().items():
            level = metrics
            *outer, last = map(str, names if len(keys) > 1 else [names])
            for name in outer:
                level = level.setdefault(name, {})
            level[last] = None if mean != mean else float(mean)  # JSON has no NaN
        path = self.root / METRICS / f"{self.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(metrics, path)
        return path

    def read_table(self, rel: str):
        """Read `reports/results/<rel>` (`<stage>/<file>.csv`) as a `pandas.DataFrame`, by `result_tables`.

        Raises:
            FileNotFoundError: no such result yet; the message names the stage to run.
            ResultTableError: it is not as declared, or its rows are doubled or torn.
        """
        path = self.root / RESULTS / rel
        if not path.is_file():
            stage = Path(rel).parts[0]
            raise FileNotFoundError(f"{path} does not exist; run `dvc repro {stage}` in profile {self.profile!r}")
        return read_columns(rel, path)

    def scratch(self, key: str = "") -> Path:
        """Return the resume folder `.visdyn/scratch/<stage>/<hash of parameters and dependencies>/<key>`, created.

        What lies there was left by a run with the same parameters and the same inputs, so it may be continued; the
        runner removes it when the stage has succeeded.
        """
        from visdyn.pipeline.guards import stage_key

        digest = os.environ.get("VISDYN_STAGE_KEY") or stage_key(self.root, self.name)
        folder = self.root / ".visdyn/scratch" / self.name / digest / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _relative_texts(self, table) -> Iterator[tuple[str, Any]]:
        """Yield the columns of a table in which a text names one of `folders`, without it."""
        for name in table.columns:
            if table[name].dtype.kind in "biufc":
                continue
            texts = [value for value in table[name].unique() if isinstance(value, str)]
            relative = {text: without_folders(text, self.folders) for text in texts}
            if any(text != short for text, short in relative.items()):
                yield name, table[name].map(lambda value, relative=relative: relative.get(value, value))

    def _result_file(self, rel: str) -> Path:
        path = self.results() / rel
        if not path.resolve().is_relative_to(self.results().resolve()):
            raise ValueError(f"stage {self.name} writes only under {RESULTS}/{self.name}; {rel!r} leads out of it")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


def known_folders(root: Path, repository: Path, settings: Params) -> tuple[str, ...]:
    """Return the absolute folders that lie elsewhere on another machine, also behind links."""
    given = {root, repository, Path(sys.prefix), Path.home()}
    for name, path in ((name, path) for name, path in asdict(settings.data).items() if path):
        with contextlib.suppress(UnsetVariableError):
            place = root / expanded(path, f"data.{name}")
            given.add(place.parent if name in ("captions", "questions") else place)  # these two are files
    return tuple(sorted({str(one) for folder in given for one in (folder, folder.resolve())}))


def _map_texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return plain values with every text changed, but for a mapping's keys."""
    if isinstance(value, dict):
        return {key: _map_texts(inner, change) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_map_texts(inner, change) for inner in value]
    return change(value) if isinstance(value, str) else value


def open_stage(name: str, profile: str = ".") -> Stage:
    """Open stage `name` of a profile, from any working directory.

    Raises:
        FileNotFoundError: no such profile.
        ParamsError: params.yaml does not fit its types.
        StageError: the kernel runs another Python environment than the runner that started it.
    """
    expected = os.environ.get("VISDYN_PREFIX")
    if expected and Path(expected) != Path(sys.prefix):
        raise StageError(f"the kernel runs {sys.prefix}, the pipeline {expected}; remove the kernel spec that hides it")
    settings = load_params(profile)
    runtime = replace(settings.runtime, hardware=choose_hardware(settings.runtime, name))
    settings = replace(settings, runtime=runtime)
    return Stage(
        name=name,
        profile=profile,
        root=profile_root(profile),
        repository=repository_root(),
        params=getattr(settings, name, settings),
        settings=settings,
    )
