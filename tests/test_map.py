"""The map of the papers is the code path: a notebook reaches each `file: name` of it, by the call graph."""

from __future__ import annotations

import re

import pytest
from call_graph import CallGraph, notebook_code, package_sources

from visdyn.paths import repository_root

ROOT = repository_root()
SOURCES = package_sources(ROOT)
# The notebooks that dvc.yaml runs: explore.ipynb is a reader's own.
NOTEBOOKS = [
    notebook_code(path)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    if path.name in (ROOT / "dvc.yaml").read_text()
]


def read_map() -> list[tuple[str, str]]:
    """Return every (file, name) of the table "Where the papers are" in docs/extending.md."""
    text = (ROOT / "docs/extending.md").read_text()
    table = text[text.index("\n| of the paper | code |") :].split("\n\n")[0]
    return re.findall(r"`([\w./-]+\.py)(?:: (\w+))?`", table)


def place_of(file: str, name: str) -> tuple[str, str]:
    return "visdyn." + file.removesuffix(".py").removesuffix("/__init__").replace("/", "."), name


@pytest.fixture(scope="module")
def reached():
    return CallGraph(SOURCES).reached(NOTEBOOKS)


def test_the_map_has_every_equation_and_algorithm_of_both_papers():
    names = {name for _, name in read_map()}
    assert {"recognition_weights", "weighted_cross_entropy", "rectified_flow_loss", "consistency_loss"} <= names
    assert {"stratified_top_k", "select_keyframes", "choose_best", "do_and_undo", "epe_forward", "epe_v1"} <= names
    assert len(NOTEBOOKS) >= 13


@pytest.mark.parametrize(("file", "name"), read_map(), ids=str)
def test_what_the_map_names_is_what_runs(reached, file, name):
    assert place_of(file, name) in reached, (
        f"no notebook comes to {file}: {name}: the map leads to code that never runs"
    )


@pytest.mark.parametrize(
    ("caller", "call", "lost"),
    [
        ("training.bagel.objective", "rectified_flow_loss(*tokens", "training.losses:rectified_flow_loss"),
        ("training.bagel.objective", "return consistency_loss(", "training.losses:consistency_loss"),
        ("mining.clip_mining", "mode: select_keyframes(", "mining.keyframes:select_keyframes"),
        ("stages.annotation", "in stratified_top_k(", "mining.stratified:stratified_top_k"),
        ("training.dynamics", "weighted_cross_entropy(hidden", "training.losses:weighted_cross_entropy"),
    ],
)
def test_a_function_is_lost_with_its_last_call(reached, caller, call, lost):
    """Its import, its docstrings and its tests stay, and do not count."""
    caller = f"visdyn.{caller}"
    assert SOURCES[caller].count(call) == 1
    name = lost.split(":")[1]
    without = {**SOURCES, caller: SOURCES[caller].replace(call, call.replace(name, "print"))}
    module = f"visdyn.{lost.split(':')[0]}"
    assert (module, name) in reached
    assert (module, name) not in CallGraph(without).reached(NOTEBOOKS)


MODULES = {
    "visdyn.__init__": "",
    "visdyn.equations": '''
"""Has `dead` and `loss`."""
from visdyn.parts import Model, helper
__all__ = ["dead", "loss"]
RECIPES = {"one": lambda: by_name()}
def loss(x: "dead") -> dead:
    """Unlike `dead`."""
    return helper(x)
def dead(x):
    return also_dead(x)
def also_dead(x): ...
def by_name(): ...
def handed_on(x): ...
def recipe(): ...
''',
    "visdyn.parts.__init__": "from visdyn.parts.inside import Model, helper",
    "visdyn.parts.inside": """
def helper(x): return Model().used(x)
def orphan(): Model().unused()
class Model:
    def __init__(self): self.start()
    def start(self): ...
    def used(self, x): ...
    def unused(self): ...
class Never:
    def used(self, x): lost()
def lost(): ...
""",
}


def test_calls_count_and_mentions_do_not():
    notebook = """
import visdyn.equations as eq
from visdyn.equations import dead, loss
from visdyn.equations import handed_on as also
eq.RECIPES["one"]()
loss(1)
map(also, [])
job = "visdyn.equations:recipe"
"""
    found = CallGraph(MODULES).reached([notebook])
    functions = {name for module, name in found if module.startswith("visdyn.") and name}
    assert functions == {
        *("RECIPES", "by_name", "handed_on", "helper", "loss", "recipe"),
        *("Model", "Model.__init__", "Model.start", "Model.used"),
    }
