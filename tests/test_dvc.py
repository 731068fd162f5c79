"""dvc.yaml: its shape, its dependencies against the notebooks' imports, and the smoke profile end to end."""

from __future__ import annotations

import re
import shutil
from operator import attrgetter
from pathlib import Path

import nbformat
import pytest
import yaml
from checkouts import copy_checkout, dvc
from dvc.fs import LocalFileSystem
from dvc.repo import Repo
from toy import write_notebook

from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.dependencies import differences, folded, imported_files, is_plumbing, main, rewritten
from visdyn.pipeline.guards import read_entries
from visdyn.reporting.items import load
from visdyn.reporting.report import build_all

ROOT = repository_root()
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
ENTRIES = read_entries(ROOT)
NAMES = (
    "world",
    "base_models",
    "base_measures",
    "probing",
    "mining",
    "idm",
    "idm_evaluation",
    "annotation",
    "fdm",
    "doundo",
    "verification",
    "evaluation",
    "evaluation_doundo",
    "spatial",
    "human_study",
    "recorded",
    "figures",
)


def test_the_stages_are_those_of_the_design():
    assert tuple(STAGES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_runs_its_notebook_through_the_runner(name):
    stage, entry = STAGES[name], ENTRIES[name]
    assert stage["cmd"] == f"python -m visdyn.pipeline {name}"
    executed = f"reports/notebooks/{Path(entry.notebook).name}"
    assert {executed, executed.replace(".ipynb", ".html")} <= set(stage["outs"])
    assert (ROOT / entry.notebook).is_file()
    assert name in entry.params or not hasattr(load_params(), name) or name == "figures"
    assert all(attrgetter(key)(load_params()) is not None for key in entry.params)


@pytest.mark.parametrize("name", NAMES)
def test_no_setting_switches_the_run_cache_off(name):
    stage = STAGES[name]
    assert not {"always_changed", "frozen"} & stage.keys()
    assert all(isinstance(out, str) for out in stage["outs"])  # no `cache: false`, no `persist` on outs
    kept_in_git = stage["plots"] + stage.get("metrics", [])
    assert all(options == {"cache": False} for out in kept_in_git for options in out.values())


@pytest.mark.parametrize("name", NAMES)
def test_a_stage_declares_the_metrics_that_its_notebook_writes(name):
    book = nbformat.read(ROOT / ENTRIES[name].notebook, as_version=4)
    writes = any("stage.write_metrics(" in cell.source for cell in book.cells)
    assert STAGES[name].get("metrics", []) == [{f"reports/metrics/{name}.json": {"cache": False}}] * writes


@pytest.mark.parametrize("name", NAMES)
def test_dependencies_come_from_an_earlier_stage_or_the_repository(name):
    made = {out for earlier in NAMES[: NAMES.index(name)] for out in ENTRIES[earlier].outs}
    for written, dep in zip(STAGES[name]["deps"], ENTRIES[name].deps, strict=True):
        if written.startswith("${root}/"):
            # What public data gave is in git and made by no stage (`make external`).
            generated = written.startswith(("${root}/reports", "${root}/models"))
            assert not generated or written in ("${root}/reports/results/external", "${root}/reports/results/robust")
        else:
            assert dep in made, f"{dep} is made by no earlier stage"


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_is_a_dependency_of_a_stage_that_uses_all_of_it(name):
    files = imported_files(ROOT / ENTRIES[name].notebook, ROOT / "src")
    folders = [dep for dep in ENTRIES[name].deps if "src/visdyn/" in dep and not dep.endswith(".py")]
    for folder in folders:
        modules = {str(path.relative_to(ROOT / "src")) for path in (ROOT / folder).rglob("*.py")}
        assert {module for module in modules - files if not module.endswith("__init__.py")} == set()


def test_a_training_hangs_on_no_measure_and_no_table_s_layout():
    for name in ("base_models", "idm", "fdm", "doundo"):
        rooms = {Path(dep).parts[2] for dep in ENTRIES[name].deps if dep.startswith("src/visdyn/")}
        assert not rooms & {"evaluation", "human_study", "reporting", "inference"}


def test_only_sources_make_a_folder_another(tmp_path):
    (tmp_path / ".dvcignore").write_bytes((ROOT / ".dvcignore").read_bytes())
    room = tmp_path / "src/visdyn/kitchen"
    (room / "draw/__pycache__").mkdir(parents=True)
    for name in ("state.py", "draw/canvas.py", "page.j2", "style.css"):
        (room / name).touch()
    for name in ("state.py~", ".state.py.swp", "state.pyc", "notes", "draw/__pycache__/canvas.pyc"):
        (room / name).touch()
    Repo.init(str(tmp_path), no_scm=True)
    with Repo(str(tmp_path)) as repo:
        walked = list(repo.dvcignore.walk(LocalFileSystem(), str(room)))
    seen = {str(Path(folder, name).relative_to(room)) for folder, _, names in walked for name in names}
    assert seen == {"state.py", "draw/canvas.py", "page.j2", "style.css"}


def test_a_table_s_declaration_is_a_dependency_of_who_reads_it_and_of_no_one_who_only_writes():
    users = {stage for stage, entry in ENTRIES.items() if any("result_tables.py" in dep for dep in entry.deps)}
    assert users == {"figures"}


def test_what_the_notebooks_import_is_what_the_stages_declare():
    assert differences(ROOT) == {}, "run `visdyn dependencies --write`"


def test_dvc_is_private_and_lock_files_are_not_ignored():
    config = (ROOT / ".dvc/config").read_text()
    assert "analytics = false" in config
    assert "check_update = false" in config
    assert "dvc.lock" not in re.sub(r"#.*", "", (ROOT / ".gitignore").read_text())


@pytest.fixture
def package(tmp_path):
    """A little `src/visdyn` with imports of every kind."""
    files = {
        "__init__.py": "OFFERED = {'late': 'visdyn.unused:late'}",
        "pipeline/__init__.py": "from visdyn.pipeline.stage import open_stage",
        "pipeline/stage.py": "from visdyn.pipeline.tables import write_table",
        "pipeline/tables.py": "",
        "a/__init__.py": "from visdyn.a.first import thing",
        "a/first.py": "import typing\nfrom . import second\nif typing.TYPE_CHECKING:\n    import visdyn.b\n",
        "a/second.py": "def f():\n    from visdyn.c import late\n",
        "b.py": "",
        "c.py": "late = 1\nTABLE = {'named': 'visdyn.d:Class'}\nCOMMAND = ['-m', 'visdyn.e']",
        "d.py": "",
        "e.py": "",
        "unused.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "src/visdyn" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    write_notebook(tmp_path / "notebooks/toy.ipynb", "from visdyn.pipeline import open_stage\nfrom visdyn import a")
    return tmp_path


def test_the_closure_follows_late_relative_and_named_imports(package):
    found = imported_files(package / "notebooks/toy.ipynb", package / "src")
    wanted = ("a/__init__", "a/first", "a/second", "c", "d", "e", "pipeline/tables")
    assert found == {f"visdyn/{name}.py" for name in wanted}
    assert is_plumbing("visdyn.pipeline.runner")
    assert is_plumbing("visdyn.paths")
    assert is_plumbing("visdyn")
    assert not is_plumbing("visdyn.pipeline.tables")
    assert not is_plumbing("visdyn.pipelines")


def test_a_folder_stands_for_its_modules_where_all_are_used(package):
    source = package / "src"
    (source / "visdyn/a/inner").mkdir()
    (source / "visdyn/a/inner/__init__.py").write_text('"""Only a docstring."""')
    (source / "visdyn/a/inner/deep.py").touch()
    used = {f"visdyn/{name}.py" for name in ("a/__init__", "a/first", "a/second", "c")}
    assert folded(used, source) == sorted(used)  # a module of an inner folder is not used
    assert folded(used | {"visdyn/a/inner/deep.py"}, source) == ["visdyn/a", "visdyn/c.py"]


def test_a_template_and_what_it_includes_are_dependencies(package):
    room = package / "src/visdyn/a"
    (room / "first.py").write_text('PAGE = "page.html.j2"\n')
    (room / "page.html.j2").write_text('{% include "style.css.j2" %}{% include "gone.css.j2" %}')
    for name in ("style.css.j2", "another.html.j2"):
        (room / name).touch()
    found = imported_files(package / "notebooks/toy.ipynb", package / "src")
    assert {name for name in found if name.endswith(".j2")} == {"visdyn/a/page.html.j2", "visdyn/a/style.css.j2"}


def test_an_init_that_holds_nothing_is_no_dependency(package):
    init = package / "src/visdyn/a/__init__.py"
    first = "from visdyn.a import first, second"
    write_notebook(package / "notebooks/toy.ipynb", first)
    assert "visdyn/a/__init__.py" in imported_files(package / "notebooks/toy.ipynb", package / "src")
    init.write_text('"""The room of a."""')
    found = imported_files(package / "notebooks/toy.ipynb", package / "src")
    assert "visdyn/a/__init__.py" not in found
    assert "visdyn/a/first.py" in found


def test_dvc_yaml_is_mended(package, monkeypatch, capsys):
    shutil.copy(ROOT / "params.yaml", package)
    deps = ("${root}/notebooks/toy.ipynb", "${root}/src/visdyn/unused.py", "data")
    text = "stages:\n  fdm:\n    deps:\n" + "".join(f"      - {dep}\n" for dep in deps)
    (package / "dvc.yaml").write_text(text)
    assert "fdm" in differences(package)
    monkeypatch.setenv("VISDYN_ROOT", str(package))
    assert main([]) == 1
    assert "unused.py" in capsys.readouterr().out
    assert main(["--write"]) == 0
    assert differences(package) == {}
    mended = (package / "dvc.yaml").read_text()
    assert mended.endswith("      - data\n")
    assert rewritten(mended, package) == mended


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A copy of the working tree, as git sees it, in its own git repository."""
    return copy_checkout(tmp_path_factory.mktemp("checkout"))


@pytest.mark.slow
def test_the_smoke_profile_runs_end_to_end_and_again_without_change(checkout):
    before = (checkout / "dvc.lock").read_bytes() if (checkout / "dvc.lock").exists() else None
    dvc(checkout, "repro", "profiles/smoke/dvc.yaml")
    lock = (checkout / "profiles/smoke/dvc.lock").read_bytes()
    assert set(yaml.safe_load(lock)["stages"]) == set(NAMES)
    assert (checkout / "profiles/smoke/reports/index.html").is_file()
    assert "didn't change, skipping" in dvc(checkout, "repro", "profiles/smoke/dvc.yaml")
    assert "up to date" in dvc(checkout, "status", "profiles/smoke/dvc.yaml")
    dvc(checkout, "repro", "--force", "--single-item", "profiles/smoke/dvc.yaml:figures")
    assert (checkout / "profiles/smoke/dvc.lock").read_bytes() == lock  # tables and figures are bit-stable
    after = (checkout / "dvc.lock").read_bytes() if (checkout / "dvc.lock").exists() else None
    assert after == before  # the default's lock is untouched
    _every_item_of_the_report_is_made(checkout)
    outputs = [
        path for part in ("data", "models", "reports") for path in (checkout / "profiles/smoke" / part).rglob("*")
    ]
    here = str(checkout).encode()
    assert [path for path in outputs if path.is_file() and here in path.read_bytes()] == []  # the same in any folder


def _every_item_of_the_report_is_made(checkout):
    """An item may be missing by design, never because a stage writes other results than its builder reads."""
    shutil.copytree(checkout / "profiles/smoke", checkout / "profiles/again", symlinks=True)
    made = build_all(checkout / "profiles/again", checkout, strict=True)
    by_design = {item.id for item in load(checkout).items if item.status == "not run"}
    # A smoke run has no people, no judge that answers in words, and no `make robust`: their tables are headers.
    by_design |= {"b_table5", "d_table7", "k_people", "k_judges", "k_robust"}
    assert set(made[made["status"] == "not run"]["id"]) == by_design


@pytest.mark.slow
def test_a_parameter_of_the_fdm_touches_the_fdm_and_not_the_idm(checkout):
    """Runs after the smoke pipeline, on its lock."""
    if not (checkout / "profiles/smoke/dvc.lock").exists():
        pytest.skip("the smoke pipeline has not run in this session")
    path = checkout / "profiles/smoke/params.yaml"
    written = path.read_text()
    (checkout / "notebooks/05_fdm_training.ipynb").touch()
    assert "up to date" in dvc(checkout, "status", "profiles/smoke/dvc.yaml")
    path.write_text(written.replace("  floor: 0.5", "  floor: 0.4"))
    assert path.read_text() != written
    status = dvc(checkout, "status", "profiles/smoke/dvc.yaml")
    path.write_text(written)
    assert "fdm" in status
    assert "idm" not in status
