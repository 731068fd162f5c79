"""`visdyn score`: a folder of images, made by whatever program, without the pipeline.

    visdyn score outputs/SmartEdit --bench aurora --root AURORA
    visdyn score outputs/mine --bench doundo --root EPIC/frames --annotations annotations_test.json
    ... --encoders embedded            (the kit's own small CLIP and DINO; `none` leaves both out)
    ... --classifier clip_openai_timesformer_large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth     (Do-Undo's A and N)
    ... --judge endpoint:gpt-4o-2024-11-20 --base-url https://api.openai.com/v1 --key-variable OPENAI_API_KEY
    ... --judge transformers:Qwen/Qwen2.5-VL-7B-Instruct

Layouts of the folder: `visdyn.evaluation.systems.image_folder` (AURORA-Bench), `<id>_fwd.png` and `<id>_rev.png`
(Do-Undo). Copy, oracle, shuffled, blend and blurred are scored on the same items, those that the folder has an image
of; each image that is not there is named with the reason. What Do-Undo's newer version prints stands first, with n and
the number of failed pairs. Started once more, a judge is asked only for what is not kept yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from visdyn.datasets import doundo_bench
from visdyn.datasets.action_classes import load_classes
from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.benches.bench import AURORA_BENCH, BENCHES, DOUNDO_BENCH, Bench, find_bench
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation, compared
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.judges.run import judge_bench
from visdyn.evaluation.leaderboard import leaderboard
from visdyn.evaluation.metrics.action_accuracy import ActionClassifier
from visdyn.evaluation.metrics.captions import Captioner, captions_of, read_captions
from visdyn.evaluation.metrics.optical_flow_backends import NamedFlow, resolved
from visdyn.evaluation.metrics.registry import NEWER_COLUMNS, metrics, newer_values, register_file
from visdyn.evaluation.systems import doundo_systems, forward_systems
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.image_folder import EXTENSIONS
from visdyn.evaluation.systems.outputs import Images, SystemImages
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.editors.protocol import REVERSE_FROM
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.params.evaluation import JudgeEntry
from visdyn.paths import repository_root
from visdyn.quarantine import Quarantine
from visdyn.yaml_files import parse_yaml

# Benchmark -> the paper's CLIP and DINO, and whose preprocessing they have.
ENCODERS = {
    "aurora": ("openai/clip-vit-base-patch32", "facebook/dino-vits16", "bootstrapping"),
    "doundo": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "facebook/dinov2-large", "doundo"),
}
KINDS = ("auto", "paper", "embedded", "none")


class ScoreError(ValueError):
    """A folder cannot be scored; the message says why and what to do."""


@dataclass(frozen=True)
class ScoredFolder:
    """What came of a folder of images.

    Attributes:
        bench: its benchmark.
        name: of the system.
        items: the items that it has an image of, in the benchmark's order.
        expected: items of the benchmark.
        systems: the baselines, and last the folder's own, with one image for each of `items`.
        tables: scores, leaderboard, quarantine; of Do-Undo newer_version; of judges judge_scores and judge_runs.
        notes: what a reader of the numbers must know, such as which encoders were taken.
    """

    bench: Bench
    name: str
    items: list
    expected: int
    systems: list[SystemImages]
    tables: dict[str, pd.DataFrame]
    notes: tuple[str, ...]

    @property
    def own(self) -> SystemImages:
        """The folder's images."""
        return self.systems[-1]

    def write(self, folder: str | Path) -> None:
        """Write the tables as CSV."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        for name, table in self.tables.items():
            table.to_csv(Path(folder) / f"{name}.csv", index=False, float_format="%.6g")


def score(folder: str | Path, bench: str = "aurora", root: str | Path = ".", **options) -> ScoredFolder:
    """Score a folder of images; nothing but judges' replies is written.

    Args:
        folder: the images.
        bench: `aurora`, `doundo`, or one of your own (`visdyn.plugins`).
        root: folder of AURORA's test.json, or of the EPIC-KITCHENS frames.
        options: those of `visdyn score --help`, with underscores: `annotations`, `encoders`, `clip`, `items`, ...

    Raises:
        ScoreError: no such folder, none of its files is an image of an item, or an encoder is out of reach.
        TypeError: an unknown option.
    """
    given = vars(parser().parse_args([str(folder), "--bench", bench, "--root", str(root)]))
    if unknown := sorted(options.keys() - given.keys()):
        raise TypeError(f"score takes no {unknown[0]!r}; it takes {', '.join(sorted(given))}")
    return score_folder(argparse.Namespace(**given | options))


def score_folder(options: argparse.Namespace) -> ScoredFolder:
    """Score a folder; the options are those of `parser`."""
    if not Path(options.folder).is_dir():
        raise ScoreError(f"{options.folder} is no folder; give the folder that holds the images")
    bench, quarantine = find_bench(options.bench), Quarantine(most=1.0)
    _register_metrics(options.plugin, bench)
    read = {"aurora": _aurora, "doundo": _doundo}.get(bench.name, _own_bench)
    items, expected, systems, scores, notes = read(bench, options, quarantine)
    own = systems[-1]
    board = leaderboard(scores, bench.paper, own.name, 0, bench.label_columns)
    set_aside = pd.DataFrame([(one.item, one.reason) for one in quarantine], columns=["item", "reason"])
    tables = {"scores": scores, "leaderboard": board, "quarantine": set_aside.sort_values("item")}
    if bench is DOUNDO_BENCH:
        tables["newer_version"] = _newer_version(scores, {own.name: expected}, len(items))
    replies = default_out(options) / "replies"
    judged = [judge_bench(entry, bench, items, [own], replies, options.device) for entry in _judges(options)]
    for place, name in enumerate(("judge_scores", "judge_runs")):
        if judged:
            tables[name] = pd.concat([pair[place] for pair in judged], ignore_index=True)
    return ScoredFolder(bench, own.name, items, expected, systems, tables, tuple(notes))


def default_out(options: argparse.Namespace) -> Path:
    """Return the folder of the tables: `--out`, or `<folder>-scores`."""
    return Path(options.out or f"{str(options.folder).rstrip('/')}-scores")


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    one = argparse.ArgumentParser(prog="visdyn score", description="Score a folder of generated images.")
    one.add_argument("folder", help="the images")
    one.add_argument("--bench", required=True, metavar="BENCH",
                     help=f"{', '.join(BENCHES)}, or your own: my_bench.py:MyBench")  # fmt: skip
    one.add_argument("--root", required=True, help="folder of AURORA's test.json, or of the EPIC-KITCHENS frames")
    one.add_argument("--annotations", help="Do-Undo's annotations_test.json")
    one.add_argument("--prompt", default="long", choices=("long", "short"), help="prompts the images were made with")
    one.add_argument("--name", help="of the system; the folder's by default")
    one.add_argument("--items", type=int, default=0, help="first items of each subset only (pairs of Do-Undo)")
    one.add_argument("--encoders", default="auto", choices=KINDS,
                     help="CLIP and DINO: the paper's, the kit's own small ones (embedded), or none; auto: the paper's "
                     "where they are on this machine, else the small ones where there are any")  # fmt: skip
    one.add_argument("--preset", help="of the encoders: bootstrapping, doundo or embedded")
    one.add_argument("--clip", help="CLIP folder or hub id; '' leaves CLIP's metrics out")
    one.add_argument("--dino", help="DINO folder or hub id; '' leaves DINO out")
    one.add_argument("--captions", help="CSV: image (target, start, end), subset, id, caption")
    one.add_argument("--captioner", help="captioning model, such as Salesforce/blip-image-captioning-large")
    one.add_argument("--flow", default="auto", choices=("auto", "farneback", "dis", "raft"))
    one.add_argument("--flow-size", type=int, default=512)
    one.add_argument("--classifier", help="file of LaViLa's action classifier, for Do-Undo's A-F, A-R, N-F and N-R")
    one.add_argument("--plugin", action="append", default=[], metavar="FILE",
                     help="file with metrics of your own (`visdyn check FILE`); repeatable")  # fmt: skip
    one.add_argument("--judge", action="append", default=[],
                     help="endpoint:MODEL, transformers:MODEL or plugin:my_judge.py:MyJudge; repeatable")  # fmt: skip
    one.add_argument("--base-url", default="", help="of the endpoint")
    one.add_argument("--key-variable", default="", help="environment variable with the endpoint's key")
    one.add_argument("--repeats", type=int, default=1)
    one.add_argument("--judge-prompt", default="", help="paper, viescore, kit or a file; the paper's where printed")
    one.add_argument("--prompt-clone", default="", help="your clone of the repository that has the prompt's words")
    one.add_argument("--sampling", action="append", default=[], metavar="NAME=VALUE",
                     help="field of each request, such as temperature=1, or seed=null to send none")  # fmt: skip
    one.add_argument("--concurrency", type=int, default=4)
    one.add_argument("--device", default="cpu")
    one.add_argument("--pictures", type=int, default=6, help="items in each row of the card's pictures")
    one.add_argument("--out", help="folder of the tables and of card.html; <folder>-scores by default")
    return one


# What a benchmark's reader returns: the items with an image, how many there are, systems, scores, notes.
Read = tuple[list, int, list[SystemImages], pd.DataFrame, list[str]]


def _aurora(bench: Bench, options: argparse.Namespace, quarantine: Quarantine) -> Read:
    seen: dict[str, int] = {}
    items = []
    for item in load_bench(options.root, quarantine=quarantine, decode=True, targets="optional"):
        seen[item.subset] = seen.get(item.subset, 0) + 1
        if not options.items or seen[item.subset] <= options.items:
            items.append(item)
    own = forward_systems.from_folder(options.folder, _name(options), options.folder, items, quarantine)
    kept, own = _keep_answered(own, items, options.folder, "<subset>/<id>.png, <id>.png or an index.csv")
    known, model = _captions(options)
    keys = [(item.subset, item.id) for item in kept]
    captions = captions_of("target", keys, [item.target for item in kept], known, model)
    clip, dino, notes = _encoders(options)
    evaluation = ForwardEvaluation(kept, captions, None, clip, dino, True, model, tuple(options.plugin))
    systems = [*baseline_systems(AURORA_BENCH, kept, AURORA_BENCH.requests(), 0), own]
    return kept, len(items), systems, forward_systems.score_forward(evaluation, systems), notes


def _doundo(bench: Bench, options: argparse.Namespace, quarantine: Quarantine) -> Read:
    if not options.annotations:
        raise ScoreError("--bench doundo needs --annotations, the benchmark's annotations_test.json")
    pairs = doundo_bench.load(options.annotations, options.root, quarantine)
    pairs = with_short_prompts(pairs, quarantine) if options.prompt == "short" else pairs
    pairs = pairs[: options.items or None]
    own = doundo_systems.from_folder(options.folder, _name(options), options.folder, pairs, options.prompt, quarantine)
    kept, own = _keep_answered(own, pairs, options.folder, "<id>_fwd.png and <id>_rev.png")
    known, model = _captions(options)
    keys = [("", pair.id) for pair in kept]
    captions = tuple(captions_of(end, keys, [getattr(pair, end) for pair in kept], known, model)
                     for end in ("start", "end"))  # fmt: skip
    flow, (clip, dino, notes) = NamedFlow(resolved(options.flow), None, options.device), _encoders(options)
    evaluation = EditingEvaluation(
        kept, captions, None, clip, dino, options.flow_size or None, flow, prompts=True,
        edited_captions=model, classes=load_classes(options.annotations, quarantine) if options.classifier else {},
        classifier=ActionClassifier.from_file(options.classifier, options.device) if options.classifier else None,
        metric_files=tuple(options.plugin),
    )  # fmt: skip
    requests = DOUNDO_BENCH.requests([options.prompt], REVERSE_FROM)
    systems = [*baseline_systems(DOUNDO_BENCH, kept, requests, 0), own]
    return kept, len(pairs), systems, doundo_systems.score_doundo(evaluation, systems), notes


def _own_bench(bench: Bench, options: argparse.Namespace, quarantine: Quarantine) -> Read:
    """Score a benchmark of the user's own by its metrics that compare an image with its target."""
    items = list(bench.load(options.root, quarantine))[: options.items or None]
    images: Images = {}
    for request in bench.requests([options.prompt], REVERSE_FROM):
        stems = [Path(options.folder) / Path(bench.file(item, request)).with_suffix("") for item in items]
        places = [[stem.with_name(stem.name + suffix) for suffix in EXTENSIONS] for stem in stems]
        images[request] = [next((path for path in paths if path.is_file()), None) for paths in places]
    own = SystemImages(bench.name, _name(options), 0, "imported", options.folder, images, "")
    layout = f"such as {bench.file(items[0], next(iter(images)))}" if items else "none, for the benchmark has no items"
    kept, own = _keep_answered(own, items, options.folder, layout)
    if not any(entry.compute for entry in metrics(bench.name)):
        raise ScoreError(f"benchmark {bench.name} has no metric that compares two images; register one in its file")
    systems, parts = [*baseline_systems(bench, kept, list(images), 0), own], []
    for system in systems:
        for request, refs in system.images.items():
            rows = [row for row, image in enumerate(refs) if image is not None]
            targets = [bench.transition(kept[row], request).target for row in rows]
            table = pd.DataFrame(compared(bench.name, [refs[row] for row in rows], targets)).assign(
                system=system.name, chain=system.chain,
                **{column: getattr(request, column) for column in bench.label_columns},
                subset=[bench.subset(kept[row]) for row in rows], id=[kept[row].id for row in rows],
            )  # fmt: skip
            keys = ["system", "chain", *bench.label_columns, "subset", "id"]
            parts.append(table.melt(keys, var_name="metric", value_name="value"))
    return kept, len(items), systems, pd.concat(parts, ignore_index=True), []


def _keep_answered(own: SystemImages, items: Sequence, folder: str, layout: str) -> tuple[list, SystemImages]:
    """Return the items that the folder has an image of, and its images of them.

    Raises:
        ScoreError: there is none.
    """
    rows = [row for row in range(len(items)) if any(refs[row] is not None for refs in own.images.values())]
    if not rows:
        files = sorted(path for path in Path(folder).rglob("*") if path.suffix.lower() in EXTENSIONS)
        held = f"{len(files)} image files, the first {files[0].relative_to(folder)}" if files else "no image file"
        why = f" ({own.note})" if own.note.startswith("not run") else ""
        raise ScoreError(f"{folder} has no image of the benchmark's {len(items)} items{why}: it holds {held}; "
                         f"expected are {layout}")  # fmt: skip
    images = {request: [refs[row] for row in rows] for request, refs in own.images.items()}
    return [items[row] for row in rows], SystemImages(own.bench, own.name, 0, own.origin, own.model, images, own.note)


def _newer_version(scores: pd.DataFrame, expected: dict[str, int], num_pairs: int) -> pd.DataFrame:
    """Return the newer version's columns for each system, undone from the true end: system, column, value, n, failed.

    `failed` pairs have no value: no image, no text, no class; the authors' code leaves such a pair out of every column.

    Args:
        expected: pairs of a system; of the others, which are scored where it has images, `num_pairs`.
    """
    own = newer_values(scores[scores["reverse_from"].fillna("") != "generated"])
    found = own.groupby(["system", "column"], sort=False)["value"].agg(value="mean", n="count").reset_index()
    order = {head: place for place, head in enumerate(NEWER_COLUMNS.values())}
    found = found.sort_values("column", key=lambda heads: heads.map(order), kind="stable")
    totals = found["system"].map(expected).fillna(num_pairs).astype(int)
    return found.assign(failed=totals - found["n"]).sort_values("system", kind="stable")


def _captions(options: argparse.Namespace) -> tuple[dict, Captioner | None]:
    known = read_captions(options.captions) if options.captions else {}
    return known, Captioner(options.captioner, options.device) if options.captioner else None


def _encoders(options: argparse.Namespace) -> tuple[ImageTextEncoder | None, ImageEncoder | None, list[str]]:
    """Return CLIP and DINO, None where one is left out, and a note for each: what it is, or how to get it."""
    loaded, notes = [], []
    usual = ENCODERS[options.bench]
    for load, place, label in (
        (ImageTextEncoder.from_pretrained, 0, "clip"),
        (ImageEncoder.from_pretrained, 1, "dino"),
    ):
        name, preset, note = _choose_encoder(options, usual[place], usual[2], label)
        notes.append(f"{label.upper()}: {note}")
        try:
            loaded.append(load(name, preset, options.device) if name else None)
        except OSError as error:
            raise ScoreError(f"{label.upper()} {name} is neither a folder nor in the Hugging Face cache, and cannot be "
                             f"fetched; `hf download {name}` where there is a network, or --encoders embedded, or "
                             f"--{label} '' to leave it out") from error  # fmt: skip
    return *loaded, notes


def _choose_encoder(options: argparse.Namespace, paper: str, preset: str, label: str) -> tuple[str, str, str]:
    """Return an encoder's folder or hub id (empty: left out), whose preprocessing it has, and the note of it."""
    if (given := getattr(options, label)) is not None:
        preset = options.preset or ("embedded" if options.encoders == "embedded" else preset)
        return given, preset, f"{given} ({preset})" if given else "left out"
    small = _find_embedded(label)
    if options.encoders == "none":
        return "", "", "left out"
    if options.encoders == "paper" or (options.encoders == "auto" and _is_cached(paper)):
        return paper, options.preset or preset, f"{paper}, the paper's"
    if small:
        why = "" if options.encoders == "embedded" else f"; the paper's is not on this machine: `hf download {paper}`"
        return small, options.preset or "embedded", f"the kit's own small one, trained on its kitchen world{why}"
    missing = f"models/{label} is not here: `make repro` trains it"
    if options.encoders == "embedded":
        raise ScoreError(f"the kit's own {missing}")
    return "", "", f"left out, for {paper} is not on this machine (`hf download {paper}`) and {missing}"


def _find_embedded(label: str) -> str:
    try:
        folder = repository_root() / "models" / label
    except FileNotFoundError:  # installed away from a checkout
        return ""
    return str(folder) if folder.is_dir() else ""


def _is_cached(name: str) -> bool:
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(name, "config.json"), str)


def _judges(options: argparse.Namespace) -> list[JudgeEntry]:
    shared = {
        name: getattr(options, name) for name in ("base_url", "key_variable", "repeats", "prompt_clone", "concurrency")
    }
    fields = [text.partition("=") for text in options.sampling]
    shared |= {
        "prompt": options.judge_prompt,
        "sampling": {name: parse_yaml(value, f"--sampling {name}") for name, _, value in fields},
    }
    parts = [text.partition(":") for text in options.judge]
    return [JudgeEntry(kind=kind, model=model, **shared) for kind, _, model in parts]


def _register_metrics(files: Sequence[str], bench: Bench) -> None:
    for file in files:
        if not register_file(file, bench.name):
            raise ScoreError(f"{file} holds no Metric of {bench.name}; `visdyn check {file}` says what it holds")


def _name(options: argparse.Namespace) -> str:
    return options.name or Path(options.folder).resolve().name
