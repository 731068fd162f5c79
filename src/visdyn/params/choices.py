"""`data/choices.yaml`: what was, or may be, chosen on the dev items, and the parameters of each trial.

A choice names parameters of params.yaml and the values that are tried; all else stays as the profile has it. So the
value that was chosen is the one that params.yaml says.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from visdyn.params import Params
from visdyn.params.dynamics import ArmName
from visdyn.params.reading import Name, OneOrMore, ParamsError, from_mapping, nearest
from visdyn.paths import repository_root
from visdyn.yaml_files import read_yaml

FILE = "data/choices.yaml"
JOINT = " x "  # between several parameters that change together, and between their values
TrialName = Literal["idm", "fdm", "doundo", "generator", "sampling", "base", "mining"]


@dataclass(frozen=True, kw_only=True)
class Declared:
    """The keys of a choice whose types are fixed.

    Attributes:
        trial: what is made for each value and measured on the dev items (`stages.trials`).
        parameters: dotted keys of params.yaml that change together.
        arm: of an FDM.
    """

    trial: TrialName
    parameters: OneOrMore[Name]
    arm: ArmName = "supervised"


@dataclass(frozen=True, kw_only=True)
class Choice(Declared):
    """One choice.

    Attributes:
        name: of its results, `reports/results/choices/<name>.csv`.
        values: for each value tried, one entry a parameter.
    """

    name: str
    values: tuple[tuple[Any, ...], ...]

    @property
    def parameter(self) -> str:
        """The parameters as results name them."""
        return JOINT.join(self.parameters)

    def find(self, value: str) -> tuple[Any, ...]:
        """Return the entries of a value by its text.

        Raises:
            ParamsError: no such value is declared.
        """
        known = {shown(entries): entries for entries in self.values}
        if value not in known:
            raise ParamsError(f"{FILE}: choice {self.name!r} has no value {value!r}; {nearest(value, list(known))}")
        return known[value]


def shown(entries: tuple[Any, ...]) -> str:
    """Return a value as results name it: `0.001`, or `8 x 1800` of two parameters."""
    return JOINT.join("null" if entry is None else str(entry) for entry in entries)


def read_choices(path: Path | None = None) -> dict[str, Choice]:
    """Read the declared choices, by name.

    Args:
        path: defaults to the checkout's `data/choices.yaml`.

    Raises:
        ParamsError: an unknown or a missing key, an unknown trial or arm, or a value without an entry a parameter.
    """
    path = path or repository_root() / FILE
    return {name: _read_choice(path, name, entry) for name, entry in read_yaml(path).items()}


def _read_choice(path: Path, name: str, entry: Any) -> Choice:
    given = dict(entry) if isinstance(entry, dict) else {}
    values = given.pop("values", None)
    if not isinstance(values, list) or not values:
        raise ParamsError(f"{path}: choice {name!r} lists no values")
    declared = from_mapping(Declared, given, path, name)
    tried = tuple(tuple(value) if isinstance(value, list) else (value,) for value in values)
    if odd := next((value for value in tried if len(value) != len(declared.parameters)), None):
        raise ParamsError(f"{path}: choice {name!r} has {len(declared.parameters)} parameters, but a value {list(odd)}")
    return Choice(name=name, values=tried, **vars(declared))


def current(choice: Choice, values: dict[str, Any]) -> str:
    """Return what a profile's plain values say where the choice's parameters stand: the value that was chosen."""
    return shown(tuple(_section(values, key, choice)[key.rpartition(".")[2]] for key in choice.parameters))


def changed(choice: Choice, entries: tuple[Any, ...], values: dict[str, Any], path: Path) -> Params:
    """Return a profile's parameters with one value of a choice in their place, checked as params.yaml is.

    Args:
        values: of `read_values`.
        path: of the params.yaml, for errors.

    Raises:
        ParamsError: a parameter that is not there, or a value that may not stand there.
    """
    values = copy.deepcopy(values)
    for key, entry in zip(choice.parameters, entries, strict=True):
        _section(values, key, choice)[key.rpartition(".")[2]] = entry
    return from_mapping(Params, values, path)


def _section(values: dict[str, Any], key: str, choice: Choice) -> dict[str, Any]:
    """Return the mapping in which a dotted key stands."""
    section: Any = values
    *outer, last = key.split(".")
    for part in outer:
        section = section.get(part) if isinstance(section, dict) else None
    if not isinstance(section, dict) or last not in section:
        raise ParamsError(f"{FILE}: choice {choice.name!r} names {key!r}, a parameter that params.yaml does not have")
    return section
