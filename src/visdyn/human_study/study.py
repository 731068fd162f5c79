"""A study's definition, read from a folder with `study.yaml`, `items.jsonl` and one folder of images per system.

    study.yaml     title, kind, seed, systems, ... (`Settings` has every key)
    items.jsonl    one object a line: id, subset, prompt, source; for pairwise studies also reverse_prompt
    sources/       the input images, where items.jsonl names them
    outputs/<system>/<subset>/<id>.png            best_worst: one image an item
    outputs/<system>/<subset>/<id>-forward.png    pairwise: two images an item, done and undone
    outputs/<system>/<subset>/<id>-reverse.png

`systems` in study.yaml may map a system's name to a folder elsewhere. Files named by items must lie inside their
folder: a path that leads out of it, a link included, is set aside.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from visdyn.datasets.bad_items import image_problem
from visdyn.human_study.study_criteria import ADVICE, BEST_WORST, CONSENT, CRITERIA, OVERALL, PAIRWISE, Criterion
from visdyn.quarantine import Quarantine
from visdyn.readers import Unusable, read_lines, read_text
from visdyn.yaml_files import YamlError, parse_yaml

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAX_SYSTEMS = 12  # more cannot be compared on one page
VIEWS = {BEST_WORST: ("",), PAIRWISE: ("forward", "reverse")}
_ADVICE = "a study folder holds study.yaml and items.jsonl"
_CHOICES = {"kind": (BEST_WORST, PAIRWISE), "draw": ("random", "balanced"), "ask": (OVERALL, "each"),
            "pairs": ("one", "all")}  # fmt: skip


class StudyError(ValueError):
    """A study's folder does not hold what a study needs; the message says what and where."""


@dataclass(frozen=True)
class Item:
    """What one page shows: an input image, an instruction, and the images of every system.

    Attributes:
        subset, id: together unique in the study.
        prompt: the instruction; `reverse_prompt` undoes it (empty in best/worst studies).
        source: the input image.
        outputs: system -> its images, one per view (done, undone).
    """

    subset: str
    id: str
    prompt: str
    reverse_prompt: str
    source: Path
    outputs: Mapping[str, tuple[Path, ...]]

    @property
    def key(self) -> str:
        """Return `<subset>/<id>`."""
        return f"{self.subset}/{self.id}"


@dataclass(frozen=True)
class Settings:
    """The keys of study.yaml.

    Attributes:
        title: shown on every page; it must not say which systems are compared.
        kind: `best_worst` or `pairwise`.
        systems: names of the systems, or name -> folder (relative to study.yaml).
        seed: of items, order and shuffling.
        items_per_subset: items one annotator sees of each subset; None: all.
        draw: `random` (drawn anew for each annotator, as in the paper) or `balanced` (every item equally often).
        ask: `overall` (one choice under all criteria by priority, as in the papers) or `each` (one per criterion).
        pairs: pairwise only; `one` pair of systems an item and annotator, rotating, or `all` pairs.
        criteria: priority order; None: the paper's.
        advice, consent: texts shown; None: the kit's.
        minutes: expected duration, shown to the annotator.
    """

    title: str
    kind: str
    systems: tuple[str, ...] | Mapping[str, str]
    seed: int = 0
    items_per_subset: int | None = None
    draw: str = "random"
    ask: str = OVERALL
    pairs: str = "one"
    criteria: tuple[Criterion, ...] | None = None
    advice: str | None = None
    consent: tuple[str, ...] | None = None
    minutes: int | None = None


@dataclass(frozen=True)
class Study:
    """A study ready to be served: settings with every default filled in, and its usable items, sorted by key."""

    settings: Settings
    items: tuple[Item, ...]
    fingerprint: str

    @property
    def systems(self) -> tuple[str, ...]:
        """Return the names of the systems, in the definition's order."""
        return tuple(self.settings.systems)

    @property
    def questions(self) -> tuple[str, ...]:
        """Return the keys under which answers are stored: `overall`, or each criterion's."""
        settings = self.settings
        return (OVERALL,) if settings.ask == OVERALL else tuple(item.key for item in settings.criteria)


def load_study(folder: str | Path, quarantine: Quarantine | None = None) -> Study:
    """Read a study.

    Args:
        folder: holds study.yaml and items.jsonl.
        quarantine: takes the items that cannot be shown, each with its reason (a missing output, say).

    Raises:
        StudyError: a file or key is missing, unknown or mistyped, or no item can be shown.
    """
    folder = Path(folder)
    settings = _read_settings(folder / "study.yaml")
    bad = Quarantine() if quarantine is None else quarantine
    items = {}
    for number, value in read_lines(folder / "items.jsonl", StudyError, _ADVICE):
        _add_item(value, f"items.jsonl line {number}", folder, settings, items, bad)
    if not items:
        raise StudyError(f"{folder} has no item that can be shown: {bad.summary()}")
    ordered = tuple(items[key] for key in sorted(items))
    return Study(settings, ordered, _hash_content(settings, ordered))


def _add_item(value: object, place: str, folder: Path, settings: Settings, items: dict, bad: Quarantine) -> None:
    try:
        if isinstance(value, Unusable):
            raise StudyError(value.reason)
        item = _read_item(value, folder, settings)
        if item.key in items:
            raise StudyError(f"item {item.key} stands there twice; the first is kept")
        items[item.key] = item
    except StudyError as error:
        bad.add(place, str(error))


def _read_settings(path: Path) -> Settings:
    try:
        raw = parse_yaml(read_text(path, StudyError, _ADVICE), path)
    except YamlError as error:
        raise StudyError(str(error)) from None
    known = [field.name for field in fields(Settings)]
    if not isinstance(raw, dict) or (unknown := set(raw) - set(known)):
        named = ", ".join(map(str, unknown)) if isinstance(raw, dict) else "no keys at all"
        raise StudyError(f"{path} has {named}; the keys are {', '.join(known)}")
    if missing := {"title", "kind", "systems"} - set(raw):
        raise StudyError(f"{path} lacks {', '.join(sorted(missing))}")
    return _check_settings(Settings(**raw), path)


def _check_settings(settings: Settings, path: Path) -> Settings:
    for key, allowed in _CHOICES.items():
        if getattr(settings, key) not in allowed:
            raise StudyError(f"{path}: {key} is {getattr(settings, key)!r}, not one of {', '.join(allowed)}")
    systems = settings.systems if isinstance(settings.systems, dict) else [str(name) for name in settings.systems]
    repeated = len(set(systems)) < len(systems)
    if repeated or not 2 <= len(systems) <= MAX_SYSTEMS or any("|" in name or not name for name in map(str, systems)):
        raise StudyError(f"{path}: systems must be 2 to {MAX_SYSTEMS} different names without '|', not {list(systems)}")
    per_subset = settings.items_per_subset
    if per_subset is not None and (not isinstance(per_subset, int) or per_subset < 1):
        raise StudyError(f"{path}: items_per_subset is {per_subset!r}, not a positive number; leave it out for all")
    folders = systems if isinstance(systems, dict) else {name: f"outputs/{name}" for name in systems}
    return replace(
        settings,
        title=str(settings.title),
        systems={str(name): str(place) for name, place in folders.items()},
        criteria=_read_criteria(settings, path),
        advice=ADVICE[settings.kind] if settings.advice is None else str(settings.advice),
        consent=tuple(CONSENT if settings.consent is None else map(str, settings.consent)),
    )


def _read_criteria(settings: Settings, path: Path) -> tuple[Criterion, ...]:
    if settings.criteria is None:
        return CRITERIA[settings.kind]
    try:
        found = tuple(Criterion(**{key: str(value) for key, value in entry.items()}) for entry in settings.criteria)
    except (TypeError, AttributeError) as error:
        raise StudyError(f"{path}: a criterion has key, title, good and bad, nothing else ({error})") from error
    if not found or len({item.key for item in found}) < len(found):
        raise StudyError(f"{path}: criteria must be one or more, with different keys")
    return found


def _read_item(raw: object, folder: Path, settings: Settings) -> Item:
    if not isinstance(raw, dict) or not all(str(raw.get(key) or "").strip() for key in ("id", "subset", "prompt")):
        raise StudyError("an item is an object with id, subset, prompt and source")
    subset, name = str(raw["subset"]), str(raw["id"])
    views = VIEWS[settings.kind]
    outputs = {}
    for system, place in settings.systems.items():
        stems = [f"{subset}/{name}" + (f"-{view}" if view else "") for view in views]
        outputs[system] = tuple(_find_output(folder / place, stem, system) for stem in stems)
    source = _resolve_inside(folder, str(raw.get("source") or ""))
    return Item(subset, name, str(raw["prompt"]), str(raw.get("reverse_prompt") or ""), _require_image(source), outputs)


def _find_output(root: Path, stem: str, system: str) -> Path:
    for suffix in SUFFIXES:
        path = _resolve_inside(root, stem + suffix)
        if path.is_file():
            return _require_image(path)
    raise StudyError(f"system {system} has no image {stem} ({', '.join(SUFFIXES)}) in {root}")


def _resolve_inside(root: Path, name: str) -> Path:
    """Return root / name, resolved; a name that leads out of root is refused before anything is read."""
    if "\0" in name or not (root / name).resolve().is_relative_to(root.resolve()):
        raise StudyError(f"the path {name!r} leads out of {root}")
    return (root / name).resolve()


def _require_image(path: Path) -> Path:
    if problem := image_problem(path, decode=True):
        raise StudyError(problem)
    return path


def _hash_content(settings: Settings, items: tuple[Item, ...]) -> str:
    """Hash whatever decides what is shown and asked; texts may be corrected while a study runs."""
    decisive = {key: value for key, value in asdict(settings).items()
                if key in ("kind", "seed", "items_per_subset", "draw", "ask", "pairs")}  # fmt: skip
    decisive["systems"] = list(settings.systems)
    decisive["criteria"] = [criterion.key for criterion in settings.criteria]
    digest = hashlib.sha256(json.dumps(decisive, sort_keys=True).encode())
    for item in items:
        digest.update(json.dumps([item.key, item.prompt, item.reverse_prompt]).encode())
        for path in [item.source, *(path for system in settings.systems for path in item.outputs[system])]:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()
