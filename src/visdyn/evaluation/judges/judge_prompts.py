"""What judges are asked: prompts as files with a name, a version and a source, chosen by each judge's entry.

A file is text below a head of YAML. `{instruction}` stands for the instruction, `{direction}` for the sentence that
`directions` has for the forward and the reverse image; other braces are text. Those of the kit lie in `prompts/` as
`<criteria>_<name>.md`; a judge may name any other file. Keys of the head:

    name, version   stand beside every score; other words need another version
    asks            editing (two scores, Bootstrapping) or doundo (four)
    source          whose words they are
    structured      whether a server is asked for JSON alone (`response_format`); no where it is left out
    text_first      whether the text stands before the images; no where it is left out
    directions      forward and reverse, for `{direction}`
    clone           in place of the text: the file of a public repository that has it, which constants, their digest
"""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from visdyn.evaluation.judges.judge_criteria import CRITERIA, Criteria
from visdyn.paths import UnsetVariableError, expanded
from visdyn.yaml_files import parse_yaml

FOLDER = Path(__file__).parent / "prompts"
_KEYS = {"name", "version", "asks", "source", "structured", "text_first", "directions", "clone"}


class PromptError(ValueError):
    """A prompt cannot be used; the message names the file and says what to do."""


@dataclass(frozen=True)
class Prompt:
    """A judge's prompt; the attributes are the keys of its file, `text` what stands below them."""

    name: str
    version: str
    criteria: Criteria
    source: str
    text: str
    directions: Mapping[str, str] = field(default_factory=dict)
    structured: bool = False
    text_first: bool = False

    @property
    def full_version(self) -> str:
        """The version and the first 8 hex digits of the text's SHA-256; scores of different ones do not compare."""
        words = repr((self.text, sorted(self.directions.items())))
        return f"{self.version}-{hashlib.sha256(words.encode()).hexdigest()[:8]}"

    def fill(self, instruction: str, direction: str = "forward") -> str:
        """Return the prompt as a judge reads it."""
        return self.text.replace("{direction}", self.directions.get(direction, "")).replace(
            "{instruction}", instruction
        )


def prompt_names(asks: str) -> list[str]:
    """Return the names of the kit's own prompts for some criteria."""
    return sorted(path.stem.removeprefix(f"{asks}_") for path in FOLDER.glob(f"{asks}_*.md"))


def load_prompt(name: str, asks: str, clone: str | Path = "") -> Prompt:
    """Read one of the kit's prompts by name, or any file.

    Args:
        name: one of `prompt_names`, or a path; `~` and environment variables are expanded.
        asks: the criteria it must ask for, `editing` or `doundo`.
        clone: your clone of the repository that a prompt's words are read from.

    Raises:
        PromptError: no such prompt, a file that is none, or words that are not there.
    """
    own = FOLDER / f"{asks}_{name}.md"
    try:
        path = own if name in prompt_names(asks) else Path(expanded(name, "the judge's prompt"))
        clone = expanded(str(clone), "prompt_clone")
    except UnsetVariableError as error:
        raise PromptError(str(error)) from None
    if not path.is_file():
        raise PromptError(f"no prompt for {asks} is called {name!r} and no such file exists; "
                          f"choose one of {', '.join(prompt_names(asks))}, or give the path of a file")  # fmt: skip
    head, text = _split_head(path)
    if missing := [key for key in ("name", "version", "asks", "source") if not head.get(key)]:
        raise PromptError(f"{path}: the head lacks {missing[0]}")
    if unknown := set(head) - _KEYS:
        raise PromptError(f"{path}: the head has the unknown key {sorted(unknown)[0]!r}; keys are {', '.join(_KEYS)}")
    if head["asks"] != asks:
        raise PromptError(f"{path}: it asks for {head['asks']!r}, but here judges give the scores of {asks!r}")
    if path != own and head["name"] in prompt_names(asks):
        raise PromptError(f"{path}: {head['name']!r} is the name of a prompt of the kit; give yours another")
    if head.get("clone"):
        text = _read_constants(head["clone"], clone, path)
    if "{instruction}" not in text:
        raise PromptError(f"{path}: the text has no {{instruction}}, where the instruction would stand")
    directions = head.get("directions") or {}
    if ("{direction}" in text) != (set(directions) == {"forward", "reverse"}):
        raise PromptError(f"{path}: {{direction}} in the text needs directions forward and reverse in the head, "
                          "and the other way round")  # fmt: skip
    return Prompt(
        str(head["name"]), str(head["version"]), CRITERIA[asks], str(head["source"]), text, directions,
        head.get("structured") is True, head.get("text_first") is True,
    )  # fmt: skip


def _split_head(path: Path) -> tuple[dict, str]:
    try:
        start, head, text = path.read_text(encoding="utf-8").split("---\n", 2)
        values = parse_yaml(head, path)
    except ValueError:
        start, values, text = "?", None, ""
    if start or not isinstance(values, dict):
        raise PromptError(f"{path}: a prompt begins with a head of YAML between two lines ---; see {FOLDER}")
    return values, text.rstrip("\n")


def _read_constants(source: Mapping, clone: str | Path, prompt: Path) -> str:
    """Join text constants of a Python file without running it; what is not the pinned text is refused."""
    advice = f"{source['command']}, and name that folder in prompt_clone"
    if not str(clone):
        raise PromptError(f"{prompt.stem}: its words are not the kit's to copy; {advice}")
    path = Path(clone) / source["file"]
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (OSError, ValueError, SyntaxError) as error:
        raise PromptError(f"{path} cannot be read ({error}); {advice}") from None
    constants = {statement.targets[0].id: statement.value.value for statement in statements
                 if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name)
                 and isinstance(statement.value, ast.Constant)}  # fmt: skip
    text = "\n".join(str(constants.get(name, "")) for name in source["constants"])
    if hashlib.sha256(text.encode()).hexdigest() != source["sha256"]:
        raise PromptError(f"{path} has other words than the pinned ones; check out the commit that {prompt} names")
    return text.replace(source["instruction"], "{instruction}")
