"""`visdyn COMMAND ...`: everything that the kit does from a command line, in one program.

A command is a line of `COMMANDS` and the `main` of one module, which is imported when it is asked for: `visdyn --help`
loads no library. What goes wrong is said in one sentence; `visdyn --traceback COMMAND ...` shows where.
"""

from __future__ import annotations

import codecs
import difflib
import importlib
import importlib.util
import locale
import os
import sys
import traceback
from collections.abc import Sequence
from dataclasses import dataclass

OLDEST = (3, 11)
MISLEADING = ("PYTHONOPTIMIZE", "PYTHONIOENCODING", "PYTHONUTF8")
# Where a git hook, or a shell, says that the repository is: of another one than the checkout that a command asks about.
GIT_PLACES = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX")
PIPELINE, ALONE, STUDY, KIT = "The pipeline", "One thing, without the pipeline", "A human study", "The kit itself"


@dataclass(frozen=True)
class Command:
    """One command.

    Attributes:
        name: one word, or two.
        target: `module:function`, called with the arguments; it returns an exit status or None.
        help: one line.
        group: under which `visdyn --help` lists it.
        computes: it makes numbers, so that the environment's arithmetic is settled as for a stage.
    """

    name: str
    target: str
    help: str
    group: str
    computes: bool = False


COMMANDS = {command.name: command for command in (
    Command("run", "visdyn.pipeline.run_stages:main", "run the stages of a profile that are not up to date", PIPELINE),
    Command("status", "visdyn.pipeline.run_stages:show_status", "which stages of a profile are out of date", PIPELINE),
    Command("report", "visdyn.reporting.__main__:main", "build the report of whatever results a profile has", PIPELINE),
    Command("play", "visdyn.explorer.play:main", "look at models in the browser, and steer them", PIPELINE, True),
    Command("doctor", "visdyn.pipeline.doctor:main", "what a profile needs and what of it is missing", PIPELINE),
    Command("plan", "visdyn.pipeline.cost_plan:main", "what a profile or one item costs: hours, disk, money", PIPELINE),
    Command("verify", "visdyn.pipeline.verify:main", "do two runs reach the same verdicts?", PIPELINE),
    Command("same", "visdyn.pipeline.same:main", "did two checkouts make the same bytes?", PIPELINE),
    Command("score", "visdyn.commands.score_folder:main", "score a folder of generated images", ALONE, True),
    Command("probe", "visdyn.commands.probe_model:main", "does a model prefer real trajectories?", ALONE, True),
    Command("edit", "visdyn.commands.edit_image:main", "perform an action on an image, and undo it", ALONE, True),
    Command("bench", "visdyn.inference.do_undo:main", "make the images of the Do-Undo benchmark, resumable", ALONE),
    Command("mine", "visdyn.commands.mine_data:main", "key-frames of videos, reversible pairs", ALONE, True),
    Command("check", "visdyn.commands.check_plugin:main", "does your own model, editor, judge or metric fit?", ALONE),
    Command("study prepare", "visdyn.stages.human_study_outputs:main", "write a study of a profile's images", STUDY),
    Command("study serve", "visdyn.human_study.serve:main", "serve a study's pages; --export for answers", STUDY),
    Command("cards", "visdyn.commands.write_cards:main", "cards of a profile's models and data, with Croissant", KIT),
    Command("choices", "visdyn.stages.choices:main", "try what data/choices.yaml declares on the dev items", KIT, True),
    Command("external", "visdyn.stages.external:main", "measure public data where it is at hand", KIT, True),
    Command("something", "visdyn.datasets.something:main", "cut Something-Something's frames for AURORA", KIT),
    Command("notebooks", "visdyn.pipeline.notebooks:main", "the rules of notebooks", KIT),
    Command("dependencies", "visdyn.pipeline.dependencies:main", "dvc.yaml against what the notebooks import", KIT),
    Command("profiles", "visdyn.pipeline.profiles:main", "profiles' files against their overrides", KIT),
    Command("metrics", "visdyn.pipeline.headline:main", "write reports/metrics.json, what `dvc metrics` shows", KIT),
    Command("readme", "visdyn.reporting.readme:main", "write the results into README.md", KIT),
    Command("film", "visdyn.commands.draw_film:main", "an animated picture of what models make, for the README", KIT),
    Command("page", "visdyn.commands.write_page:main", "the project's page: film, verdicts, pictures, links", KIT),
    Command("pack", "visdyn.explorer.pack:main", "put checkpoints into data/pack, small enough for git", KIT, True),
    Command("arithmetic", "visdyn.pipeline.arithmetic:main", "run a command in the environment of a stage", KIT),
    Command("machine", "visdyn.pipeline.fingerprint:main", "fingerprint of this machine's arithmetic", KIT),
    Command("store", "visdyn.compute.store:main", "show or save a file of kept values", KIT),
)}  # fmt: skip
# Library -> the extra of pyproject.toml that brings it, for the sentence that says what is missing.
EXTRAS = {
    "dvc": "pipeline", "papermill": "pipeline", "nbformat": "pipeline", "nbconvert": "pipeline", "jinja2": "pipeline",
    "matplotlib": "pipeline", "seaborn": "pipeline", "sacrebleu": "pipeline", "rouge_score": "pipeline",
    "jupyterlab": "lab", "ipywidgets": "lab", "voila": "lab", "deepspeed": "train", "starlette": "study",
    "uvicorn": "study", "torchvision": "flow", "bert_score": "bertscore", "ray": "scale",
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; return its exit status (1: it failed, 2: it was called wrongly)."""
    if sys.version_info < OLDEST:  # of a checkout on the path: pip would have refused to install it
        print("visdyn needs Python 3.11 or newer, and this is %d.%d" % sys.version_info[:2], file=sys.stderr)  # noqa: UP031
        return 1
    given = list(sys.argv[1:] if arguments is None else arguments)
    if arguments is None and _is_misled():
        kept = {name: value for name, value in os.environ.items() if name not in MISLEADING}
        os.execve(sys.executable, [sys.executable, "-m", "visdyn", *given], kept | {"PYTHONUTF8": "1"})
    for name in GIT_PLACES:
        os.environ.pop(name, None)
    shown = given[:1] == ["--traceback"]
    given = given[1:] if shown else given
    if given[:1] == ["--version"]:
        from visdyn import __version__

        print(f"visdyn {__version__}")
        return 0
    if not given or given[0] in ("-h", "--help", "help"):
        print(describe_commands())
        return 0
    command, rest = _find_command(given)
    if command is None:
        return _refuse_name(given)
    sys.argv = [f"visdyn {command.name}", *rest]  # what argparse calls the program
    try:
        if command.computes:
            _settle_arithmetic()
        module, _, function = command.target.partition(":")
        return int(getattr(importlib.import_module(module), function)(rest) or 0)
    except KeyboardInterrupt:
        print(f"visdyn {command.name}: stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `visdyn doctor | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ImportError, OSError, ValueError, RuntimeError) as error:
        if shown:
            traceback.print_exc()
        print(f"visdyn {command.name}: {_describe_error(error)}", file=sys.stderr)
        return 1


def _is_misled() -> bool:
    """Tell whether the shell has this Python drop docstrings, which say what commands do, or read text as no UTF-8."""
    read_as = codecs.lookup(locale.getpreferredencoding(False)).name
    return sys.flags.optimize > 1 or read_as != "utf-8" or "PYTHONIOENCODING" in os.environ


def describe_commands() -> str:
    """Return what `visdyn --help` prints: every command that is there, by group."""
    lines = ["usage: visdyn [--traceback] COMMAND [...]      visdyn COMMAND --help says more", ""]
    for group in (PIPELINE, ALONE, STUDY, KIT):
        own = [one for one in COMMANDS.values() if one.group == group and _is_there(one)]
        lines += [group, *(f"  {one.name:<14} {one.help}" for one in own), ""]
    return "\n".join([*lines, "--traceback before a command shows where it failed; --version says which kit this is."])


def _find_command(given: list[str]) -> tuple[Command | None, list[str]]:
    for length in (2, 1):
        command = COMMANDS.get(" ".join(given[:length]))
        if command is not None and len(given) >= length and _is_there(command):
            return command, given[length:]
    return None, given


def _refuse_name(given: list[str]) -> int:
    """Say that there is no such command, and which is meant; of a group of two words list its commands."""
    there = [name for name, command in COMMANDS.items() if _is_there(command)]
    inside = [name for name in there if name.startswith(f"{given[0]} ")]
    if inside and (len(given) == 1 or given[1] in ("-h", "--help")):
        print("\n".join(f"visdyn {name:<14} {COMMANDS[name].help}" for name in inside))
        return 0
    wrong = " ".join(given[:2]) if inside else given[0]
    near = difflib.get_close_matches(wrong, there, 1)
    meant = f"did you mean {near[0]!r}? " if near else ""
    print(f"visdyn: there is no command {wrong!r}; {meant}`visdyn --help` lists them", file=sys.stderr)
    return 2


def _is_there(command: Command) -> bool:
    """Tell whether this installation has the command's module; nothing of it is run."""
    name = command.target.partition(":")[0]
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # a package above it
        return False


def _settle_arithmetic() -> None:
    from visdyn.pipeline import arithmetic

    for line in arithmetic.apply(1 if arithmetic.is_portable() else None):
        print(line, file=sys.stderr)


def _describe_error(error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and error.name:
        library = error.name.partition(".")[0]
        remedy = f"pip install 'visdyn[{EXTRAS[library]}]'" if library in EXTRAS else f"pip install {library}"
        return f"{library} is not installed; {remedy}"
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    said = str(error).strip() or type(error).__name__
    if type(error).__module__.startswith("visdyn"):
        return said
    return f"{said} ({type(error).__name__}; `visdyn --traceback` before the command shows where)"


if __name__ == "__main__":
    sys.exit(main())
