"""Full params.yaml and dvc.yaml of each profile, written from its overrides.

`visdyn profiles` reports the profiles whose files are out of step, `--write` writes them. A profile
is a folder of `profiles/` with an `overrides.yaml`: the keys of params.yaml in which it differs from the root, or from
the profile that its key `parent` names. DVC reads whole files, and a symbolic link of an old revision as text, so both
files are real ones. Lines are copied, not printed anew, so that comments and layout survive.

Where a profile reads data of others, which may be for non-commercial use only, what shows their pixels (generated
images, galleries, executed notebooks) has `push: false` in its dvc.yaml: `dvc push` leaves it here. `share_pixels:
true` in overrides.yaml asks for the opposite; .gitignore keeps the profiles' figures and reports out of git.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from visdyn.params.reading import ParamsError, nearest
from visdyn.paths import repository_root
from visdyn.yaml_files import YamlError, clipped, compose_yaml, parse_yaml

OVERRIDES = "overrides.yaml"
OF_OVERRIDES = ("parent", "share_pixels")  # keys that are none of params.yaml
SHOWS_PIXELS = ("data/generated/", "reports/notebooks/", "data/mined")  # outputs; mined pairs bring their frames
HEADER = "# Generated from {sources} by `visdyn profiles --write`; do not edit.\n"


def profile_files(root: Path) -> dict[Path, str]:
    """Return what params.yaml and dvc.yaml of every profile with overrides should hold.

    Args:
        root: the repository.

    Raises:
        ParamsError: an override of a key that the parent does not have, an unknown parent, or a circle of parents.
    """
    files = {}
    for path in sorted(root.glob(f"profiles/*/{OVERRIDES}")):
        files[path.parent / "params.yaml"] = full_params(root, path.parent.name)
        stages = (root / "dvc.yaml").read_text()
        if not _shares_pixels(root, path.parent.name):
            stages = _keep_pixels(stages)
        files[path.parent / "dvc.yaml"] = HEADER.format(sources="the root's dvc.yaml") + stages
    return files


def _shares_pixels(root: Path, name: str) -> bool:
    """Tell whether `dvc push` may take a profile's images: those of a rendered world, or where overrides.yaml asks."""
    asked = parse_yaml(text := (root / "profiles" / name / OVERRIDES).read_text(encoding="utf-8"), name) or {}
    parent = _parent_of(text, root / "profiles" / name / OVERRIDES)
    if "share_pixels" in asked:
        return asked["share_pixels"] is True
    if (asked.get("world") or {}).get("kind", "kitchen") != "kitchen":
        return False
    return parent is None or _shares_pixels(root, parent)


def _keep_pixels(stages: str) -> str:
    """Return the text of a dvc.yaml whose outputs that show images are not pushed."""
    lines, of_outputs = [], False
    for line in stages.splitlines():
        of_outputs = line == "    outs:" or (of_outputs and line.startswith("      "))
        output = line.removeprefix("      - ")
        if of_outputs and output != line and output.startswith(SHOWS_PIXELS):
            lines += [f"      - {output}:", "          push: false"]
        else:
            lines.append(line)
    return "\n".join(lines) + "\n"


def full_params(root: Path, name: str, children: tuple[str, ...] = ()) -> str:
    """Return the text of a profile's params.yaml.

    Args:
        children: the profiles whose parent is being read; a parent among them is a circle.
    """
    path = root / "profiles" / name / OVERRIDES
    if name in children:
        raise ParamsError(f"{path}: profiles are each other's parents: {' -> '.join((*children, name))}")
    if not path.is_file():
        raise ParamsError(f"{root / 'profiles' / children[-1] / OVERRIDES}: no parent {name!r}, which has no {path}")
    text = path.read_text(encoding="utf-8")
    parent = _parent_of(text, path)
    inherited = full_params(root, parent, (*children, name)) if parent else (root / "params.yaml").read_text()
    body = _override_lines(_without_header(inherited), _without_header(text), path)
    source = f"{OVERRIDES} and {f'profiles/{parent}' if parent else 'the root'}'s params.yaml"
    return HEADER.format(sources=source) + "".join(_header_comments(text)) + body


def _parent_of(text: str, path: Path) -> str | None:
    values = parse_yaml(text, path) or {}
    if not isinstance(values, dict):
        raise ParamsError(f"{path} must be a mapping of keys, not {clipped(values)}")
    parent = values.get("parent")
    if parent is not None and not (isinstance(parent, str) and Path(parent).name == parent):
        raise ParamsError(f"{path}: parent must be the name of a folder in profiles/, not {clipped(parent)}")
    return parent


def differences(root: Path) -> list[Path]:
    """Return the files of profiles that are missing, links, or not what their overrides say."""
    return [
        path
        for path, text in profile_files(root).items()
        if path.is_symlink() or not path.is_file() or path.read_text() != text
    ]


def write_profiles(root: Path) -> list[Path]:
    """Write the files of profiles that are out of step, and return them."""
    written = differences(root)
    for path in written:
        text = profile_files(root)[path]
        path.unlink(missing_ok=True)  # a link would be written through
        path.write_text(text)
    return written


def _override_lines(text: str, overrides: str, path: Path) -> str:
    """Replace the lines of `text` whose keys `overrides` has too; both are YAML in block style, indented alike."""
    replaced = {line: ["root: ../.."] for line, key in enumerate(text.splitlines()) if key.startswith("root:")}
    if (delta := compose_yaml(overrides, path)) is not None:
        replaced |= _find_replacements(
            compose_yaml(text, f"what {path} overrides"), delta, overrides.splitlines(), path, ""
        )
    return "\n".join(new for line, old in enumerate(text.splitlines()) for new in replaced.get(line, [old])) + "\n"


def _find_replacements(
    base: MappingNode, delta: MappingNode, given: list[str], path: Path, section: str
) -> dict[int, list[str]]:
    """Return, by line number in `base`, the lines of `given` (the overrides' text) that stand there instead."""
    replaced: dict[int, list[str]] = {}
    known = {key.value: (key, value) for key, value in base.value}
    for key, value in delta.value:
        if not section and key.value in OF_OVERRIDES:
            continue
        if key.value not in known:
            name = f"{section}{key.value}"
            raise ParamsError(f"{path} has the unknown key {name!r}; {nearest(key.value, list(known))}")
        old_key, old = known[key.value]
        first, start = old_key.start_mark.line, key.start_mark.line
        if _is_section(old) and _is_section(value):
            if "#" in given[start]:
                replaced[first] = [given[start]]
            replaced |= _find_replacements(old, value, given, path, f"{section}{key.value}.")
        else:
            replaced |= {line: [] for line in range(first, _last_line(old) + 1)}
            replaced[first] = given[start : _last_line(value) + 1]
    return replaced


def _is_section(node: Node) -> bool:
    return isinstance(node, MappingNode) and not node.flow_style


def _last_line(node: Node) -> int:
    """Return the last line of a value itself; the end that PyYAML gives a block is behind the comments after it."""
    if isinstance(node, MappingNode) and not node.flow_style:
        return max(_last_line(value) for _, value in node.value)
    if isinstance(node, SequenceNode) and not node.flow_style:
        return max(map(_last_line, node.value))
    return node.end_mark.line


def _header_comments(text: str) -> Iterator[str]:
    """Yield the comment lines with which a file begins, but for the line that says what it was generated from."""
    for line in text.splitlines(keepends=True):
        if not line.startswith("#"):
            return
        if not line.startswith("# Generated from "):
            yield line


def _without_header(text: str) -> str:
    lines = text.splitlines(keepends=True)
    count = next((at for at, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "".join(lines[count:])


def main(arguments: list[str] | None = None) -> int:
    """Report the profiles' files that are out of step (status 1 where there are any), or write them with `--write`."""
    parser = argparse.ArgumentParser(prog="visdyn profiles", description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write what is out of step")
    root = repository_root()
    try:
        if parser.parse_args(arguments).write:
            for path in write_profiles(root):
                print(f"{path.relative_to(root)} written")
            return 0
        found = differences(root)
    except (ParamsError, YamlError) as error:
        print(error, file=sys.stderr)
        return 2
    for path in found:
        print(f"{path.relative_to(root)} is out of step; run `visdyn profiles --write`")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
