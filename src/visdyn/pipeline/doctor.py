"""What a profile, or one item of a paper, needs and what of it is here: `make doctor PROFILE=profiles/paper`.

    visdyn doctor --profile profiles/paper --item b_table2

Names every data set, checkpoint, key, accelerator and optional library that the profile's parameters ask for; for each
that is missing its command, size and licence, and the stages that wait for it. Fetches nothing, loads no weights;
whether their files are whole it reads from their headers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import shutil
import subprocess
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path

from visdyn.datasets.inventory import ANNOTATIONS, take_inventory
from visdyn.models.weight_files import find_fault
from visdyn.params import Params, ParamsError, load_params
from visdyn.params.runtime import TRAINING_STAGES, choose_hardware
from visdyn.paths import UnsetVariableError, expanded, profile_root, repository_root
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.fingerprint import recall_machine
from visdyn.pipeline.guards import read_entries
from visdyn.pipeline.item_stages import commands_of_item, stages_of_item
from visdyn.pipeline.plan_facts import read_size
from visdyn.pipeline.run_stages import plan_stages
from visdyn.pipeline.stage import open_stage
from visdyn.pipeline.stage_hardware import read_hardware, refuse_optimizers
from visdyn.reporting.provenance import read_families
from visdyn.yaml_files import read_yaml

# Description files in data/external of what lies under each root of section `data`.
DESCRIPTIONS = {
    "aurora": ("aurora",),
    "epic": ("epic_kitchens_100",),
    "clips": ("moments_in_time", "ucf_101", "kinetics_700"),
    "doundo": ("doundo_bench",),
    "captions": ("bagel_mixture",),
    "questions": ("bagel_mixture",),
}
# Description files of the benchmarks in section `spatial`: key -> file.
BENCHMARKS = {"spatialmqa": "spatialmqa", "spatialmqa_images": "coco_test2017", "embspatial": "embspatial_bench"}
# Libraries outside the lock: module -> (what for, command).
EXTRAS = {
    "torchvision": ("RAFT optical flow", 'pip install -e ".[flow]"'),
    "ray": ("mining and annotation past one machine", 'pip install -e ".[scale]"'),
    "bert_score": ("BERTScore", 'pip install -e ".[bertscore]"'),
    "playwright": ("the human study's browser test", 'pip install -e ".[browser]" && playwright install chromium'),
}
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.pth", "*.ckpt")


@dataclass(frozen=True)
class Check:
    """One thing that is here or is not.

    Attributes:
        kind: data, model, key, hardware or library.
        name: as the parameters have it.
        present: True, False, or None where it is optional and absent.
        detail: what was found, or what is wrong.
        stages: those that need it.
        command, size, licence: how to get it; empty where it is present.
    """

    kind: str
    name: str
    present: bool | None
    detail: str
    stages: tuple[str, ...] = ()
    command: str = ""
    size: str = ""
    licence: str = ""


# Stages that use a GPU where data and models are the papers'.
ON_GPUS = ("probing", "mining", "idm", "idm_evaluation", "annotation", "fdm", "doundo", "verification", "evaluation",
           "evaluation_doundo", "spatial")  # fmt: skip
ROOM = 5.0  # GB that any run leaves behind and should find


def examine(profile: str = ".", stages: Collection[str] | None = None) -> list[Check]:
    """Check everything that a profile's parameters ask for.

    Args:
        stages: leave out what none of these stages needs (default: all).
    """
    params, external = load_params(profile), repository_root() / "data/external"
    checks = [
        *_check_benchmarks(params, profile, external),
        *_check_hardware(params),
        _check_arithmetic(profile),
        *_check_models(params, profile, external),
        *_check_keys(params),
        *_check_libraries(),
    ]
    if params.world.kind == "external":
        checks = [*_check_data(profile, params, external), *checks]
    if stages is not None:
        checks = [check for check in checks if not check.stages or set(check.stages) & set(stages)]
    return [*checks, *_check_login(checks), _check_disk(profile, checks)]


def _check_data(profile: str, params: Params, external: Path) -> Iterator[Check]:
    for name in ANNOTATIONS:
        facts = _describe_source(external, DESCRIPTIONS[name])
        try:
            root = open_stage("doctor", profile).data(name) if getattr(params.data, name) else None
        except (StageError, UnsetVariableError) as error:
            yield Check("data", name, False, str(error).partition("; ")[0], **facts)
            continue
        if root is None:
            yield Check("data", name, None, "not named in section data", **facts)
            continue
        parts = take_inventory({name: root})
        missing = [part.part for part in parts if not part.found]
        counted = sum(part.size for part in parts if not part.sha256)
        if missing:
            yield Check("data", name, False, f"{root}: no {', '.join(missing)}", **facts)
        else:
            yield Check("data", name, True, f"{root}: {counted} files", facts["stages"])


def _describe_source(external: Path, files: Sequence[str]) -> dict:
    """Return who needs the data that the files describe, and how they are fetched."""
    described = [read_yaml(external / f"{file}.yaml") for file in files]
    return {
        "stages": tuple(dict.fromkeys(stage for entry in described for stage in entry["used_by"])),
        "command": "\n".join(entry["command"].strip() for entry in described),
        "size": "; ".join(f"{entry['name']}: {entry['size']}" for entry in described),
        "licence": "; ".join(f"{entry['name']}: {entry['licence']}" for entry in described),
    }


def _check_benchmarks(params: Params, profile: str, external: Path) -> Iterator[Check]:
    for key, file in BENCHMARKS.items():
        given = getattr(params.spatial, key)
        if given:
            facts = _describe_source(external, (file,))
            try:
                path = profile_root(profile) / expanded(given, f"spatial.{key}")
            except UnsetVariableError as error:
                yield Check("data", f"spatial.{key}", False, str(error).partition("; ")[0], **facts)
                continue
            yield Check("data", f"spatial.{key}", path.exists(), str(path), **facts)


def _check_models(params: Params, profile: str, external: Path) -> Iterator[Check]:
    described = read_yaml(external / "models.yaml")
    known, command = {entry["id"]: entry for entry in described["models"]}, described["command"]
    for name, stages in named_checkpoints(params, known).items():
        entry = known.get(name, {})
        # A checkpoint that stage base_models only names is needed where it is used.
        stages = (
            tuple(dict.fromkeys([*entry.get("used_by", ()), *(stage for stage in stages if stage != "base_models")]))
            or stages
        )
        place = find_checkpoint(name, profile_root(profile))
        fault = None if place is None else find_fault(place)
        if place is not None and fault is None:
            yield Check("model", name, True, str(place), stages)
            continue
        fetch = command.replace("<id>", name).replace(" --revision <revision> --local-dir models/<name>", "")
        fetch = entry.get("command", fetch).strip()
        note = f" ({entry['note']})" if entry.get("note") else ""
        local = name.startswith("/") or "command" in entry
        detail = fault or (f"no such folder{note}" if local else f"not in the Hugging Face cache{note}")
        yield Check("model", name, False, detail, stages, fetch, entry.get("size", ""), entry.get("licence", ""))


def named_checkpoints(params: Params, known: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Return every hub id and absolute path among the parameters, with the sections that name it.

    Args:
        known: further names that are checkpoints, such as `roberta-large`, which does not look like a hub id.
    """
    found: dict[str, list[str]] = {}
    for section in fields(params):
        if section.name in ("root", "seed", "runtime", "data", "recorded"):
            continue
        for text in _walk_texts(getattr(params, section.name)):
            if (text in known or _is_checkpoint(text)) and section.name not in found.setdefault(text, []):
                found[text].append(section.name)
    return {name: tuple(stages) for name, stages in found.items()}


def _walk_texts(value) -> Iterator[str]:
    if is_dataclass(value):
        value = [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _walk_texts(list(value.values()))
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _walk_texts(item)


def _is_checkpoint(text: str) -> bool:
    inside = text.startswith(("models/", "data/", "reports/"))
    hub = re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", text) is not None
    return not inside and (hub or (text.startswith("/") and not text.startswith("//")))


def find_checkpoint(name: str, root: Path) -> Path | None:
    """Return where a checkpoint lies: a file, a local folder with weights, or a snapshot in the Hugging Face cache."""
    name = os.path.expanduser(os.path.expandvars(name))
    local = root / name
    if local.is_file():
        return local
    if local.is_dir():
        return local if _has_weights(local) else None
    if name.startswith("/"):
        return None
    from huggingface_hub import snapshot_download

    try:
        cached = Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError):
        return None
    return cached if _has_weights(cached) else None


def _has_weights(folder: Path) -> bool:
    return any(next(folder.rglob(pattern), None) for pattern in WEIGHTS)


def _check_keys(params: Params) -> Iterator[Check]:
    """Environment variables that the evaluations' judges and editors name; values are never read or shown."""
    stages: dict[str, list[str]] = {}
    for stage in ("evaluation", "evaluation_doundo"):
        for text in dict.fromkeys(_walk_texts(getattr(params, stage))):
            if re.fullmatch(r"[A-Z][A-Z0-9_]*_(KEY|TOKEN)", text):
                stages.setdefault(text, []).append(stage)
    for name, needed in stages.items():
        present = bool(os.environ.get(name))
        yield Check("key", name, present, "set" if present else "not set", tuple(needed), f"export {name}=...")


def _check_arithmetic(profile: str) -> Check:
    """Say which family of machines this is under the settings of a stage, and which made the results here."""
    root = profile_root(profile)
    machine, others = recall_machine(root / ".visdyn/machine.json"), read_families(root / "reports/machine.json")
    here = f"{machine.family}, {machine.cpu}, {machine.capability}"
    if machine.fingerprint in others:
        return Check("hardware", "arithmetic", True, f"{here}; the results here have these bytes")
    if not others:
        return Check("hardware", "arithmetic", True, f"{here}; no results here name theirs")
    made = ", ".join(f"{name} ({kind})" for name, kind in others.items())
    advice = "; PORTABLE=1 may give their bytes" if "portable" in others.values() and not machine.portable else ""
    detail = f"{here}; the results here were made by {made}: trained models will have other bytes{advice}"
    return Check("hardware", "arithmetic", True, detail)


def _check_login(checks: Sequence[Check]) -> Iterator[Check]:
    """Whether a token of the Hugging Face hub is here, where a missing checkpoint asks for an accepted licence."""
    gated = [check for check in checks if check.kind == "model" and check.present is False and "gated" in check.licence]
    if gated:
        from huggingface_hub import get_token

        stages = tuple(dict.fromkeys(stage for check in gated for stage in check.stages))
        pages = ", ".join(f"https://huggingface.co/{check.name}" for check in gated)
        present = get_token() is not None  # never shown
        detail = f"{'logged in' if present else 'not logged in'}; accept the licence at {pages}"
        yield Check("key", "Hugging Face hub", present, detail, stages, "hf auth login")


def _ask_driver() -> str:
    """Return what nvidia-smi says of the first GPU and its driver; "" where there is none."""
    asked = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    lines = said.stdout.strip().splitlines() if said.returncode == 0 else []
    return f"nvidia-smi sees {len(lines)}: {lines[0]}" if lines else ""


def _check_hardware(params: Params) -> Iterator[Check]:
    import torch

    names = {stage: choose_hardware(params.runtime, stage) for stage in TRAINING_STAGES}
    wants = params.runtime.device == "cuda" or set(names.values()) != {"cpu"}
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    cards = ", ".join(
        f"{torch.cuda.get_device_name(i)} ({torch.cuda.get_device_properties(i).total_memory / 2**30:.0f} GiB)"
        for i in range(count)
    )
    here, built, command = f"torch {torch.__version__}, {cards or 'no CUDA device'}", torch.version.cuda, ""
    if wants and not count:
        driver = _ask_driver()
        here += f"; {driver}" if driver else "; nvidia-smi sees no GPU: use a machine that has one, with its driver"
        if driver and built is None:
            here += "; this torch is built for the CPU"
            command = f"pip install --force-reinstall --no-deps torch=={torch.__version__.partition('+')[0]}"
        elif driver:
            here += f"; this torch needs a driver for CUDA {built}"
    yield Check("hardware", "accelerators", count > 0 if wants else True, here, ON_GPUS if wants else (), command)
    for name in dict.fromkeys(names.values()):
        stages = tuple(stage for stage, own in names.items() if own == name)
        try:
            refuse_optimizers(params, read_hardware(params.runtime, stages))
            yield Check("hardware", f"{name}.yaml", True, f"for {', '.join(stages)}", stages)
        except (ParamsError, FileNotFoundError) as error:
            yield Check("hardware", f"{name}.yaml", False, str(error), stages)


def _check_libraries() -> Iterator[Check]:
    for module, (purpose, command) in EXTRAS.items():
        present = importlib.util.find_spec(module) is not None
        yield Check("library", module, True if present else None, purpose, command="" if present else command)


def _check_disk(profile: str, checks: Sequence[Check]) -> Check:
    """Compare the free space with the sizes of what is missing, as far as their descriptions say them."""
    free = shutil.disk_usage(profile_root(profile)).free / 1e9
    sizes, unknown = [ROOM], []
    for check in (one for one in checks if one.present is False and one.kind in ("data", "model")):
        for part in check.size.split("; ") if check.size else [""]:
            size = read_size(part.rpartition(": ")[2])
            sizes += [] if size is None else [size]
            unknown += [] if size is not None else [check.name]
    detail = f"{free:.0f} GB free below the profile; what is missing takes {sum(sizes) - ROOM:.0f} GB"
    if unknown:
        detail += f", and what has no stated size: {', '.join(dict.fromkeys(unknown))}"
    return Check("hardware", "disk", free > sum(sizes), detail)


def render(checks: Sequence[Check]) -> str:
    """Return the page that `make doctor` prints: a line for each check, then how to get what is missing."""
    marks = {True: "ok", False: "MISSING", None: "optional"}
    lines = [f"{marks[check.present]:<9}{check.kind:<9} {check.name}: {check.detail}" for check in checks]
    missing = [check for check in checks if not check.present and (check.command or check.present is False)]
    for check in missing:
        lines += ["", f"{check.kind} {check.name}"]
        if check.stages:
            lines.append(f"  needed by  {', '.join(check.stages)}")
        lines += [f"  {label:<10} {text}" for label, text in (("size", check.size), ("licence", check.licence)) if text]
        lines += [f"  $ {line}" for line in check.command.splitlines()]
    waiting = sorted({stage for check in missing if check.present is False for stage in check.stages})
    lines += ["", f"stages that wait for something: {', '.join(waiting) or 'none'}"]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the examination of a profile; return 1 where something that it needs is missing."""
    parser = argparse.ArgumentParser(prog="visdyn doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--profile", default=".", help="folder with params.yaml (default: the embedded default)")
    parser.add_argument("--item", help="only what one table or figure needs: b_table2 (data/published/items.yaml)")
    parser.add_argument("--json", action="store_true", help="print the checks as JSON")
    options = parser.parse_args(arguments)
    stages = None
    if options.item:
        entries = read_entries(profile_root(options.profile))
        stages = plan_stages(entries, stages_of_item(options.item, entries))
    checks = examine(options.profile, stages)
    if options.json:
        print(json.dumps([asdict(check) for check in checks], indent=1))
    else:
        print(render(checks))
        if stages is not None:
            commands = [f"  $ {line}" for line in commands_of_item(options.item, options.profile)]
            waits = f"{options.item} waits for {len(stages)} stages: {', '.join(stages)}"
            print("\n".join(["", waits, *commands]))
    return int(any(check.present is False for check in checks))


if __name__ == "__main__":
    raise SystemExit(main())
