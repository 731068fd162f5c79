"""The program `visdyn`: every command is there, explains itself, and fails in one sentence; the lazy names."""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
import tomllib

import pytest

import visdyn
from visdyn import cli
from visdyn.paths import repository_root
from visdyn.plugins import PluginError

# What comes beside the pipeline: no command or name of a user's script may need it.
EXTRA_LIBRARIES = ("dvc", "dvclive", "papermill", "nbconvert", "nbformat", "ipykernel", "jupyterlab", "ipywidgets",
                   "voila",
                   "matplotlib", "seaborn", "jinja2", "sacrebleu", "rouge_score", "deepspeed", "starlette", "uvicorn",
                   "ray", "bert_score", "torchvision")  # fmt: skip


@pytest.mark.parametrize("command", cli.COMMANDS.values(), ids=lambda one: one.name)
def test_every_command_that_is_there_explains_itself(command, capsys):
    module, _, function = command.target.partition(":")
    if not cli._is_there(command):
        pytest.skip(f"{module} is not there yet")
    sys.argv[0], before = "pytest", sys.argv[0]
    try:
        with pytest.raises(SystemExit) as ended:
            getattr(importlib.import_module(module), function)(["--help"])
    finally:
        sys.argv[0] = before
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_commands_are_listed_by_group_and_help_is_exit_0(capsys):
    assert cli.main([]) == cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    for command in cli.COMMANDS.values():
        assert (f"  {command.name} " in said) == cli._is_there(command)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["scroe", "x"], "there is no command 'scroe'; did you mean 'score'?"),
        (["study", "sevre"], "there is no command 'study sevre'; did you mean 'study serve'?"),
        (["xyzzy"], "there is no command 'xyzzy'; `visdyn --help`"),
    ],
)
def test_a_wrong_name_is_a_sentence_with_the_right_one(given, said, capsys):
    assert cli.main(given) == 2
    assert said in capsys.readouterr().err


def test_a_command_of_two_words_is_found_and_its_group_listed(capsys):
    command, rest = cli._find_command(["study", "serve", "folder"])
    assert (command.name, rest) == ("study serve", ["folder"])
    assert cli.main(["study"]) == 0
    assert "visdyn study prepare" in capsys.readouterr().out


def fails_with(monkeypatch, error, *arguments):
    def fail(_):
        raise error

    monkeypatch.setattr("visdyn.pipeline.doctor.main", fail)
    monkeypatch.setattr(sys, "argv", ["visdyn"])
    return cli.main([*arguments, "doctor"])


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory", "models/x"), "visdyn doctor: models/x: No such file"),
        (ValueError("three is no colour"), "three is no colour (ValueError; `visdyn --traceback`"),
        (
            PluginError("there is no file x"),
            "there is no file x\n",
        ),
        (
            ModuleNotFoundError("No module named 'dvc'", name="dvc.repo"),
            "dvc is not installed; pip install 'visdyn[",
        ),
        (ModuleNotFoundError("No module named 'foo'", name="foo"), "foo is not installed; pip install foo"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_goes_wrong_is_one_sentence(monkeypatch, capsys, error, said):
    assert fails_with(monkeypatch, error) == 1
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.splitlines()) == 1
    assert fails_with(monkeypatch, error, "--traceback") == 1
    assert "Traceback" in capsys.readouterr().err


def test_a_fault_of_the_kit_is_no_sentence(monkeypatch):
    with pytest.raises(KeyError):
        fails_with(monkeypatch, KeyError("x"))


def test_the_exit_status_is_the_commands(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["visdyn"])
    for status in (0, 3, None):
        monkeypatch.setattr("visdyn.pipeline.doctor.main", lambda _, status=status: status)
        assert cli.main(["doctor"]) == (status or 0)


def test_help_of_the_program_loads_no_library():
    code = "import sys, visdyn.cli; visdyn.cli.main(['--help']); print({'torch', 'numpy', 'pandas'} & set(sys.modules))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.endswith("set()\n")


def test_the_lazy_names_are_there_without_any_extra():
    code = f"""
import sys
sys.modules.update(dict.fromkeys({EXTRA_LIBRARIES!r}))  # None there: as if it were not installed
import visdyn
assert "torch" not in sys.modules
for name in visdyn.__all__:
    assert getattr(visdyn, name) is not None
from visdyn.models.bagel import Bagel
from visdyn.models.vqgan import VQGAN
print(len(visdyn.__all__))
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert said.stdout.strip() == "13"


def test_lazy_names_are_the_functions_themselves():
    from visdyn.inference.verification import best_of_k
    from visdyn.models import load_model

    assert visdyn.best_of_k is best_of_k
    assert visdyn.load_model is load_model
    assert set(visdyn.__all__) <= set(dir(visdyn))
    with pytest.raises(AttributeError, match="no attribute 'load_modle'; it offers load_model"):
        visdyn.load_modle  # noqa: B018


def test_the_extras_hold_what_the_sentences_name_and_the_script_is_declared():
    project = tomllib.loads((repository_root() / "pyproject.toml").read_text())["project"]
    assert project["scripts"]["visdyn"] == "visdyn.cli:main"
    extras = {name: {entry.partition(">")[0].partition("[")[0].replace("-", "_") for entry in entries}
              for name, entries in project["optional-dependencies"].items()}  # fmt: skip
    for library, extra in cli.EXTRAS.items():
        assert library in extras[extra], f"{library} is not in extra {extra}"
    core = {entry.partition(">")[0].replace("-", "_") for entry in project["dependencies"]}
    assert not core & set(EXTRA_LIBRARIES)


@pytest.mark.parametrize("misled", ["PYTHONIOENCODING", "locale", ""])
def test_a_shell_of_another_encoding_is_left_behind(monkeypatch, capsys, misled):
    started = []
    monkeypatch.setattr(os, "execve", lambda *given: started.append(given))
    monkeypatch.setattr(sys, "argv", ["visdyn", "--version"])
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    monkeypatch.setattr(cli.locale, "getpreferredencoding", lambda _: "ISO-8859-1" if misled == "locale" else "UTF8")
    if misled == "PYTHONIOENCODING":
        monkeypatch.setenv("PYTHONIOENCODING", "latin-1")
    assert cli.main() == 0
    if not misled:
        assert started == []
        return
    ((_, command, environment),) = started
    assert command[1:] == ["-m", "visdyn", "--version"]
    assert environment["PYTHONUTF8"] == "1"
    assert "PYTHONIOENCODING" not in environment


def test_a_git_hook_s_repository_is_not_taken_for_the_checkout(monkeypatch, capsys):
    for name in cli.GIT_PLACES:
        monkeypatch.setenv(name, "/nowhere")
    assert cli.main(["--version"]) == 0
    assert not set(cli.GIT_PLACES) & set(os.environ)


def test_a_shell_that_has_python_drop_docstrings_changes_no_command():
    given = {**os.environ, "PYTHONOPTIMIZE": "2"}
    plain = {name: value for name, value in given.items() if name != "PYTHONOPTIMIZE"}
    command = [sys.executable, "-m", "visdyn", "run", "--help"]
    said, meant = (subprocess.run(command, env=one, capture_output=True, text=True) for one in (given, plain))
    assert (said.returncode, said.stdout) == (0, meant.stdout)
    assert "the stages of a profile" in meant.stdout
