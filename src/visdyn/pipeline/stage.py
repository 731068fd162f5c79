"""What a notebook holds of its stage: paths inside the profile, typed parameters, result tables, resume folders."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from visdyn.params import Params, load_params
from visdyn.paths import expanded, profile_root, repository_root
from visdyn.pipeline.errors import StageError

RESULTS = "reports/results"
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
        settings: all of params.yaml.
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

    def located(self, path: str, name: str = "a path in params.yaml") -> Path:
        """Return a path of the parameters: `~` and `$NAME` expanded, a relative one from the profile.

        Raises:
            UnsetVariableError: an environment variable in it is unset; the message calls the path `name`.
        """
        return self.root / expanded(path, name)

    def reference(self, name_or_path: str) -> str:
        """Return what `from_pretrained` takes: the profile's own folder where it exists, else the name (hub id).

        A folder that holds a `reference.json` (stage base_models, `base_models.references`) stands for what it names: a
        hub id, or a folder, in the profile where there is one of that name.
        """
        inside = self.root / name_or_path
        if not inside.exists():
            return name_or_path
        pointer = inside / REFERENCE
        if pointer.is_file():
            name = json.loads(pointer.read_text())["name_or_path"]
            return str(self.root / name) if (self.root / name).is_dir() else name
        return str(inside)

    def results(self, name: str | None = None) -> Path:
        """Return the results folder of stage `name` (default: this stage, whose folder is created)."""
        folder = self.root / RESULTS / (name or self.name)
        if name in (None, self.name):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def write_table(self, table, rel: str, sort: bool = True) -> Path:
        """Write a `pandas.DataFrame` as `reports/results/<stage>/<rel>` so that a second run writes the same bytes.

        Floats get 6 significant digits, rows are sorted by the columns from left to right (unless `sort=False`), the
        index is left out, lines end with a line feed.
        """
        path = self._own(rel)
        table = table.reset_index(drop=True)
        if sort and len(table):
            table = table.sort_values(list(table.columns), kind="stable")
        floats = table.select_dtypes("float").columns
        table = table.assign(**{name: table[name] + 0.0 for name in floats})  # -0.0 becomes 0.0
        table.to_csv(path, index=False, float_format="%.6g", lineterminator="\n")
        return path

    def write_json(self, value: Any, rel: str) -> Path:
        """Write plain values as `reports/results/<stage>/<rel>`: sorted keys, floats with 6 significant digits."""
        path = self._own(rel)
        path.write_text(json.dumps(_rounded(value), indent=1, sort_keys=True, ensure_ascii=False) + "\n")
        return path

    def read_table(self, rel: str):
        """Read `reports/results/<rel>` (`<stage>/<file>.csv`) as a `pandas.DataFrame`.

        Raises:
            FileNotFoundError: no such result yet; the message names the stage to run.
        """
        import pandas

        path = self.root / RESULTS / rel
        if not path.is_file():
            stage = Path(rel).parts[0]
            raise FileNotFoundError(f"{path} does not exist; run `dvc repro {stage}` in profile {self.profile!r}")
        return pandas.read_csv(path)

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

    def _own(self, rel: str) -> Path:
        path = self.results() / rel
        if not path.resolve().is_relative_to(self.results().resolve()):
            raise ValueError(f"stage {self.name} writes only under {RESULTS}/{self.name}; {rel!r} leads out of it")
        path.parent.mkdir(parents=True, exist_ok=True)
        return path


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
    return Stage(
        name=name,
        profile=profile,
        root=profile_root(profile),
        repository=repository_root(),
        params=getattr(settings, name, settings),
        settings=settings,
    )


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") + 0.0
    return value
