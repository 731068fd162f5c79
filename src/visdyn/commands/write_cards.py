"""`visdyn cards`: a card of every trained model and every data set of a profile, generated from its results.

    visdyn cards                                    the embedded default, into .visdyn/cards
    visdyn cards --profile profiles/paper --out FOLDER

Model cards (`models/<folder>/README.md`, with the front matter of the Hugging Face hub) say architecture, training and
scores; data cards (`data/<name>/README.md`) what is inside, by whom and under which licence, with Croissant 1.0 beside
them (`croissant.json`). Nothing is uploaded. What is not known is left out; numbers are those of the results' files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pandas as pd

from visdyn import __version__
from visdyn.params import Params, load_params
from visdyn.paths import profile_root, repository_root
from visdyn.pipeline.doctor import DESCRIPTIONS
from visdyn.readers import read_frame, read_json, read_lines, read_rows
from visdyn.yaml_files import read_yaml

KIT = "https://arxiv.org/abs/2506.06006 and https://arxiv.org/abs/2512.13609"
OWN_LICENCE = "Apache-2.0"
CROISSANT = "http://mlcommons.org/croissant/1.0"
CONTEXT = {
    "@language": "en", "@vocab": "https://schema.org/", "citeAs": "cr:citeAs", "column": "cr:column",
    "conformsTo": "dct:conformsTo", "cr": "http://mlcommons.org/croissant/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"}, "dct": "http://purl.org/dc/terms/", "extract": "cr:extract",
    "field": "cr:field", "fileObject": "cr:fileObject", "fileProperty": "cr:fileProperty", "fileSet": "cr:fileSet",
    "format": "cr:format", "includes": "cr:includes", "isLiveDataset": "cr:isLiveDataset", "jsonPath": "cr:jsonPath",
    "key": "cr:key", "md5": "cr:md5", "parentField": "cr:parentField", "path": "cr:path", "recordSet": "cr:recordSet",
    "references": "cr:references", "regex": "cr:regex", "repeated": "cr:repeated", "replace": "cr:replace",
    "sc": "https://schema.org/", "separator": "cr:separator", "source": "cr:source", "subField": "cr:subField",
    "transform": "cr:transform",
}  # fmt: skip
FORMATS = {".json": "application/json", ".jsonl": "application/jsonlines", ".csv": "text/csv"}
PICTURES = {".png": "image/png", ".jpg": "image/jpeg", ".mp4": "video/mp4", ".avi": "video/x-msvideo"}
# Data set -> what it is; each is a folder data/<name> of the profile.
DATA = {
    "kitchen": "A rendered kitchen: images before and after an action, clips, reversible pairs and spatial questions, "
               "in the public layouts of AURORA, EPIC-KITCHENS-100 and the Do-Undo benchmark.",
    "mined": "Key-frame pairs of unlabelled clips by optical flow, and reversible pairs of actions.",
    "annotated": "Mined key-frame pairs with the actions that an inverse-dynamics model says.",
}  # fmt: skip
STAGES = {"kitchen": "world", "mined": "mining", "annotated": "annotation"}
TYPES = {bool: "sc:Boolean", int: "sc:Integer", float: "sc:Float", str: "sc:Text"}


def write_cards(profile: str, out: Path) -> list[Path]:
    """Write the cards of whatever a profile has into a folder; return the files."""
    root, params = profile_root(profile), load_params(profile)
    written = []
    for folder in _find_models(root / "models"):
        card = out / "models" / folder.relative_to(root / "models") / "README.md"
        written.append(_write(card, describe_model(folder, root, params)))
    for name in DATA:
        if (root / "data" / name).is_dir() and any((root / "data" / name).iterdir()):
            described = describe_data(name, root, params)
            written.append(_write(out / "data" / name / "croissant.json", json.dumps(described, indent=1) + "\n"))
            written.append(_write(out / "data" / name / "README.md", _write_data_card(name, described, root)))
    return written


def describe_model(folder: Path, root: Path, params: Params) -> str:
    """Return the card of a checkpoint: front matter, what it is, how it was trained, and its scores.

    Args:
        folder: with a config.json, or an adapter's.
        root: of the profile.
    """
    name = folder.relative_to(root / "models").as_posix()
    stage, run = name.partition("/")[0], _split_run(name)
    config = read_json(next(path for file in ("config.json", "adapter_config.json", "llm_config.json")
                            if (path := folder / file).is_file()), dict)  # fmt: skip
    base = params.base_models.references.named.get(stage) or config.get("base_model_name_or_path") or ""
    own = params.world.kind == "kitchen"
    licence = "apache-2.0" if own else "other"
    front = {"license": licence, "library_name": "visdyn", "tags": ["visual-dynamics", stage],
             **({"base_model": base} if re.fullmatch(r"[\w.-]+/[\w.-]+", base) else {})}  # fmt: skip
    size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
    kind = config.get("model_type") or config.get("peft_type") or "unknown"
    lines = [
        "---", *(f"{key}: {json.dumps(value)}" for key, value in front.items()), "---", "", f"# {name}", "",
        f"A checkpoint of the paper kit visdyn {__version__} ({KIT}), architecture `{kind}`, {size:.1f} MB of weights.",
        _say_scale(own), "", "## Training", "", *_list_training(stage, run, root), "", "## Scores", "",
        *_list_scores(run, root), "", "## Licence", "",
        "Apache-2.0, as the kit: trained on the rendered kitchen alone." if own else
        "That of its base and of the data that it was trained on: see data/external/models.yaml and the data's cards.",
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def describe_data(name: str, root: Path, params: Params) -> dict:
    """Return a data set in Croissant 1.0: files with their hashes, and the fields of each index file."""
    folder = root / "data" / name
    files = sorted(path for path in folder.rglob("*") if path.suffix in FORMATS and path.is_file())
    objects, records = [], []
    for path in files:
        place = path.relative_to(folder).as_posix()
        objects.append({
            "@type": "cr:FileObject", "@id": place, "name": place, "contentUrl": place,
            "encodingFormat": FORMATS[path.suffix], "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        })  # fmt: skip
        fields = [_describe_field(place, path.suffix, column, value) for column, value in _first_record(path).items()]
        if fields:
            records.append({"@type": "cr:RecordSet", "@id": f"records/{place}", "name": place, "field": fields})
    pictures = sorted({path.suffix for path in folder.rglob("*") if path.suffix in PICTURES})
    for suffix in pictures:
        objects.append({"@type": "cr:FileSet", "@id": f"pictures{suffix}", "name": f"pictures{suffix}",
                        "encodingFormat": PICTURES[suffix],
                        "includes": f"**/*{suffix}"})  # fmt: skip
    own = params.world.kind == "kitchen"
    return {
        "@context": CONTEXT, "@type": "sc:Dataset", "conformsTo": CROISSANT, "name": f"visdyn-{name}",
        "description": DATA[name] + ("" if own else " Made from others' data: their licences hold."),
        "license": [OWN_LICENCE] if own else _list_licences(params), "url": "https://arxiv.org/abs/2506.06006",
        "version": __version__, "creator": {"@type": "Organization", "name": "The visdyn authors"},
        "citeAs": KIT, "isLiveDataset": False, "distribution": objects, "recordSet": records,
    }  # fmt: skip


def _find_models(models: Path) -> Iterator[Path]:
    names = ("config.json", "adapter_config.json", "llm_config.json")
    for path in sorted(models.rglob("*")):
        inside = any((parent / file).is_file() for parent in path.parents for file in names if parent != models)
        if path.is_dir() and not inside and any((path / file).is_file() for file in names):
            yield path


def _split_run(name: str) -> tuple[str, int | None]:
    """Return (arm, chain) of `fdm/supervised-s0` or `idm/s0`; the chain is None where there is none."""
    last = name.rpartition("/")[2]
    found = re.fullmatch(r"(?:(.*)-)?s(\d+)", last)
    if found is None:
        return last, None
    return found[1] or name.partition("/")[0], int(found[2])


def _say_scale(own: bool) -> str:
    if own:
        return "A tiny model that stands for the papers', trained from scratch on a rendered kitchen; it knows no more."
    return "It was trained by the settings of its profile's params.yaml."


def _list_training(stage: str, run: tuple[str, int | None], root: Path) -> list[str]:
    results = root / "reports/results"
    lines = []
    if (setting := results / stage / "setting.json").is_file():
        for key, value in read_json(setting, dict).items():
            lines.append(f"- {key}: {json.dumps(value)}")
    arm, chain = run
    table = _read(results / stage / "arms.csv")
    own = table[(table["arm"] == arm) & (table["chain"] == chain)] if table is not None else []
    lines += [f"- {key}: {value}" for row in _records(own) for key, value in row.items()]
    losses = _read(results / stage / "training.csv")
    if losses is not None and chain is not None:
        column = next((name for name in ("arm", "variant", "model") if name in losses), None)
        own = losses[(losses[column] == arm) & (losses["chain"] == chain)] if column else losses[:0]
        lines += (
            [f"- last loss that was written: {own['loss'].iloc[-1]:.4g} at step {own['step'].iloc[-1]}"]
            if len(own)
            else []
        )
    return lines or ["Nothing is written of it in reports/results."]


def _list_scores(run: tuple[str, int | None], root: Path) -> list[str]:
    arm, _ = run
    lines = []
    for stage in ("evaluation", "evaluation_doundo"):
        board = _read(root / f"reports/results/{stage}/leaderboard.csv")
        own = board[board["system"] == arm] if board is not None else []
        for row in _records(own):
            interval = f", 95 % {row['low']:.4g} to {row['high']:.4g}" if not pd.isna(row["low"]) else ""
            lines.append(
                f"| {row['metric']} | {row['mean']:.4g}{interval} | {row['n']:.0f} | {row['num_chains']:.0f} |"
            )
    if not lines:
        return ["No score of it stands in a leaderboard."]
    return [
        "Of all its chains together:",
        "",
        "| metric | mean | items | chains |",
        "| --- | --- | --- | --- |",
        *lines,
    ]


def _describe_field(place: str, suffix: str, column: str, value: object) -> dict:
    extract = {"column": column} if suffix == ".csv" else {"jsonPath": f"$.{column}"}
    repeated = isinstance(value, list)
    kind = type(value[0] if repeated and value else value)
    return {
        "@type": "cr:Field", "@id": f"records/{place}/{column}", "name": column, "dataType": TYPES.get(kind, "sc:Text"),
        **({"repeated": True} if repeated else {}), "source": {"fileObject": {"@id": place}, "extract": extract},
    }  # fmt: skip


def _first_record(path: Path) -> Mapping[str, object]:
    """Return the first record of an index file; none where it holds no records."""
    if path.suffix == ".csv":
        return next((row for _, row in read_rows(path)), {})
    content = [value for _, value in read_lines(path)] if path.suffix == ".jsonl" else read_json(path)
    while isinstance(content, list):
        content = content[0] if content else {}
    return content if isinstance(content, dict) else {}


def _list_licences(params: Params) -> list[str]:
    """Return the licences of the data that a profile names, each with whose it is."""
    external = repository_root() / "data/external"
    named = [file for key, files in DESCRIPTIONS.items() if getattr(params.data, key) for file in files]
    described = [read_yaml(external / f"{file}.yaml") for file in named]
    return [f"{entry['name']}: {entry['licence']}" for entry in described]


def _write_data_card(name: str, described: Mapping[str, object], root: Path) -> str:
    licences = described["license"]
    single = "apache-2.0" if licences == [OWN_LICENCE] else "other"
    lines = ["---", f"license: {single}", 'tags: ["visual-dynamics"]', "---", "", f"# {described['name']}", "",
             str(described["description"]), "", "## Licence", "", *(f"- {licence}" for licence in licences), "",
             "## Files", ""]  # fmt: skip
    lines += [f"- `{one['name']}` ({one['encodingFormat']})" for one in described["distribution"]]
    counts = _read(root / f"reports/results/{STAGES[name]}/counts.csv")
    if counts is not None:
        lines += ["", "## Counts", "", "| part | count |", "| --- | --- |"]
        lines += [f"| {row['part']} | {row['count']} |" for row in _records(counts)]
    return "\n".join(lines) + "\n"


def _read(path: Path) -> pd.DataFrame | None:
    return read_frame(path) if path.is_file() else None


def _records(table: pd.DataFrame | Sequence) -> list[dict]:
    return table.to_dict("records") if isinstance(table, pd.DataFrame) else []


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the cards and name the folder."""
    parser = argparse.ArgumentParser(prog="visdyn cards", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    parser.add_argument("--out", type=Path, help="folder of the cards (default: PROFILE/.visdyn/cards)")
    options = parser.parse_args(arguments)
    out = options.out or profile_root(options.profile) / ".visdyn/cards"
    written = write_cards(options.profile, out)
    print(f"{len(written)} files below {out}" if written else f"{options.profile} has no models and no data yet")
    return 0
