"""Source notebooks keep the rules, and each rule can be broken."""

from __future__ import annotations

import copy
import json
import sys

import nbformat
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import TITLE, write_notebook

from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.executed import scrub, to_html
from visdyn.pipeline.guards import read_entries
from visdyn.pipeline.notebooks import checked_parameters, defaults, lint, stage_values, strip_outputs

ROOT = repository_root()
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
STAGES = {entry.notebook.rpartition("/")[2]: name for name, entry in read_entries(ROOT).items()}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.name)
def test_the_repository_s_notebooks_keep_the_rules(path):
    assert lint(path, STAGES.get(path.name), load_params()) == []


def test_every_stage_has_its_notebook_and_every_notebook_its_stage():
    assert {path.name for path in NOTEBOOKS} == STAGES.keys() | {"explore.ipynb", "11_robustness.ipynb"}


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("def helper():\n    pass", "defines helper"),
        ("if True:\n    class Thing:\n        pass", "defines Thing"),
        ("open('/data/aurora/test.json')", "absolute path '/data/aurora/test.json'"),
        ("x = '~/models'", "names a path of one machine"),
        ("# see /home/me/notes", "names a path of one machine"),
        ("!pip install torch", "is no plain Python"),
        ("%cd ..", "is no plain Python"),
    ],
)
def test_a_broken_rule_is_named(tmp_path, source, said):
    problems = lint(write_notebook(tmp_path / "toy.ipynb", source))
    assert any(said in problem for problem in problems), problems


@pytest.mark.parametrize(
    ("parameters", "said"),
    [
        (None, "exactly one cell tagged 'parameters', not 0"),
        ('profile = "profiles/smoke"', "must have the parameter profile = '.'"),
        ('profile = "."\nimport os', "may hold only `name = literal` lines"),
        ('profile = "."\ntwice = 2 * len("ab")', "may hold only `name = literal` lines"),
        ('profile = "."\nfloor = 0.25', "has floor = 0.25 where params.yaml has 0.5"),
        ('profile = "."\nflor = 0.5', "'flor', which is no key of section 'fdm'"),
    ],
)
def test_a_wrong_parameters_cell_is_named(tmp_path, parameters, said):
    path = write_notebook(tmp_path / "toy.ipynb", "print(1)", parameters=parameters)
    problems = lint(path, "fdm", load_params())
    assert any(said in problem for problem in problems), problems


def test_a_title_cell_tells_all_five_things(tmp_path):
    path = write_notebook(tmp_path / "toy.ipynb", "print(1)", title=TITLE.replace("Paper items", "Items"))
    assert lint(path) == ["toy.ipynb: has no 'Paper items:' line in its title cell"]
    path = write_notebook(tmp_path / "toy.ipynb", "print(1)", title="no heading")
    assert "must open with a markdown title cell" in lint(path)[0]


def test_outputs_and_foreign_formatting_are_seen(tmp_path):
    path = write_notebook(tmp_path / "toy.ipynb", "print(1)")
    assert lint(path) == []
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content))
    assert "is not as the save hook writes it" in lint(path)[0]
    content["cells"][2]["execution_count"] = 3
    path.write_text(json.dumps(content))
    assert "cell 2 holds outputs or an execution count" in lint(path)[0]


def test_an_exploration_may_hold_outputs_and_keeps_the_other_rules(tmp_path):
    path = write_notebook(tmp_path / "explore.ipynb", "print(1)", "open('/data/x')")
    content = json.loads(path.read_text())
    content["cells"][2]["execution_count"] = 3
    content["cells"][2]["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    path.write_text(json.dumps(content))
    assert lint(path) == ["explore.ipynb: cell 3 holds the absolute path '/data/x'; use stage.path(...)"]


def test_parameters_are_literals_and_checked(tmp_path):
    path = write_notebook(tmp_path / "toy.ipynb", parameters='profile = "."\nfloor: float = 0.5\narms = [0]')
    assert defaults(path) == {"profile": ".", "floor": 0.5, "arms": [0]}
    assert checked_parameters(path, {"profile": "x"}, {"floor": "1", "arms": "[1, 2]"}) == {
        "profile": "x",
        "floor": 1.0,
        "arms": [1, 2],
    }
    with pytest.raises(StageError, match=r"'profile' of toy\.ipynb is of type str"):
        checked_parameters(path, {"profile": 1})
    section = load_params().fdm
    assert stage_values(path, section) == {"floor": section.floor, "arms": list(section.arms)}


def executed(source):
    """A source notebook as JupyterLab sends it after a run."""
    model = copy.deepcopy(source)
    model["metadata"]["kernelspec"] = {"display_name": "Other", "language": "python", "name": "other"}
    model["metadata"]["language_info"]["version"] = "3.11.7"
    for number, cell in enumerate(model["cells"]):
        cell["metadata"]["execution"] = {"iopub.execute_input": "2026-01-01T00:00:00Z"}
        if cell["cell_type"] == "code":
            cell["execution_count"] = number
            cell["outputs"] = [{"output_type": "stream", "name": "stdout", "text": "1\n"}]
    return model


def test_the_save_hook_restores_the_source(tmp_path):
    source = json.loads(write_notebook(tmp_path / "toy.ipynb", "print(1)", "x = 2").read_text())
    model = {"type": "notebook", "content": executed(source)}
    strip_outputs(model)
    assert model["content"] == source
    assert "parameters" in model["content"]["cells"][1]["metadata"]["tags"]


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["code", "markdown"]), st.text(max_size=20)), max_size=5))
def test_the_save_hook_is_idempotent_and_keeps_every_source(cells):
    make = {"code": nbformat.v4.new_code_cell, "markdown": nbformat.v4.new_markdown_cell}
    notebook = nbformat.v4.new_notebook(cells=[make[kind](text) for kind, text in cells])
    strip_outputs({"type": "notebook", "content": notebook})
    once = nbformat.writes(notebook)
    strip_outputs({"type": "notebook", "content": notebook})
    assert nbformat.writes(notebook) == once
    assert [(cell.cell_type, cell.source) for cell in notebook.cells] == cells


class Manager:
    """What the hook uses of a contents manager."""

    root_dir = str(ROOT)


@pytest.mark.parametrize(
    ("path", "stripped"),
    [
        ("notebooks/00_world.ipynb", True),
        ("notebooks/explore.ipynb", False),
        ("notebooks/learn/likelihood_to_probe.ipynb", False),
        ("reports/notebooks/00_world.ipynb", False),
        ("../other/x.ipynb", False),
    ],
)
def test_only_the_repository_s_stage_notebooks_are_stripped(tmp_path, path, stripped):
    source = json.loads(write_notebook(tmp_path / "toy.ipynb", "print(1)").read_text())
    model = {"type": "notebook", "content": executed(source)}
    strip_outputs(model, path=path, contents_manager=Manager())
    assert (model["content"] == source) is stripped


def test_other_files_pass_the_save_hook_untouched():
    model = {"type": "file", "content": "text"}
    strip_outputs(model, path="notebooks/x.txt", contents_manager=Manager())
    assert model == {"type": "file", "content": "text"}


def test_scrubbing_takes_times_addresses_and_random_ids(tmp_path):
    notebook = nbformat.read(write_notebook(tmp_path / "toy.ipynb", "object()"), as_version=4)
    notebook.metadata["papermill"] = {"start_time": "t0", "duration": 2.0, "input_path": str(tmp_path)}
    cell = notebook.cells[2]
    cell.metadata["papermill"] = {"duration": 1.5, "status": "completed"}
    data = {"text/plain": "<object object at 0x7f00deadbeef>"}
    cell.outputs = [nbformat.v4.new_output("execute_result", data=data, execution_count=1)]
    timings = scrub(notebook)
    assert timings["notebook"] == {"start_time": "t0", "duration": 2.0}
    assert timings["cells"][2] == {"index": 2, "duration": 1.5, "status": "completed"}
    text = nbformat.writes(notebook)
    assert not any(word in text for word in ("papermill", "deadbeef", str(tmp_path)))
    html = to_html(notebook, "toy")
    assert 'src="http' not in html
    assert 'href="http' not in html


def test_scrubbing_takes_widgets_and_folders_out_of_whatever_is_text(tmp_path):
    """Two runs in two places: the same bytes, whichever output it is."""
    new, written = nbformat.v4.new_output, []
    for folder, number in ((tmp_path / "a", 11), (tmp_path / "b/c", 222)):
        notebook = nbformat.read(write_notebook(tmp_path / "toy.ipynb", "f()"), as_version=4)
        notebook.metadata["widgets"] = {"application/vnd.jupyter.widget-state+json": {"state": {f"id{number}": {}}}}
        view = {"application/vnd.jupyter.widget-view+json": {"model_id": f"id{number}"}, "text/plain": f"{number} s"}
        table = {"text/html": f"<td>{folder}/x.png</td>", "text/plain": f"{folder}/x.png"}
        raised = {"ename": "OSError", "evalue": f"no {folder}/x", "traceback": [f"\x1b[32m{folder}/m.py\x1b[39m:3"]}
        warned = f"/tmp/ipykernel_{number}/{number}.py:3: UserWarning\n"
        notebook.cells[2].outputs = [
            new("display_data", data=view), new("display_data", data=table), new("error", **raised),
            new("display_data", data={"application/json": {"path": [f"{folder}/y"]}, "image/png": "aGk="}),
            new("stream", name="stderr", text=warned),
        ]  # fmt: skip
        scrub(notebook, (str(folder),))
        written.append(nbformat.writes(notebook))
    assert written[0] == written[1]
    assert str(tmp_path) not in written[0]
    assert "widget" not in written[0]
    for kept in ("<td>x.png</td>", "no x", "m.py\\u001b[39m:3", "aGk=", "cell.py:3: UserWarning"):
        assert kept in written[0], kept


def test_scrubbing_joins_a_cell_s_streams_and_takes_out_this_machine_s_folders(tmp_path):
    """How output was cut into pieces is timing; two equal runs must give equal bytes."""
    stream = nbformat.v4.new_output
    pieces = [("stderr", f"{sys.prefix}/lib/a.py:1: W"), ("stdout", "one "), ("stderr", "arning"), ("stdout", "two")]
    whole = [("stdout", "one two"), ("stderr", f"{sys.prefix}/lib/a.py:1: Warning")]
    written = []
    for outputs in (pieces, whole):
        notebook = nbformat.read(write_notebook(tmp_path / "toy.ipynb", "f()"), as_version=4)
        notebook.cells[2].outputs = [stream("stream", name=name, text=text) for name, text in outputs]
        scrub(notebook)
        written.append(nbformat.writes(notebook))
    assert written[0] == written[1]
    assert sys.prefix not in written[0]
    assert '"lib/a.py:1: Warning"' in written[0]
