"""Scores a folder of images, made by whatever program, without the pipeline.

    python -m visdyn.evaluation.score outputs/SmartEdit --bench aurora --root AURORA
    python -m visdyn.evaluation.score outputs/mine --bench doundo --root EPIC/frames --annotations annotations_test.json
    ... --classifier clip_openai_timesformer_large.ft_ek100_cls.ep_0090.md5sum_4a2509.pth     (Do-Undo's A and N)
    ... --judge endpoint:gpt-4o-2024-11-20 --base-url https://api.openai.com/v1 --key-variable OPENAI_API_KEY
    ... --judge transformers:Qwen/Qwen2.5-VL-7B-Instruct

Layouts of the folder: `visdyn.evaluation.systems.image_folder` (AURORA-Bench), `<id>_fwd.png` and `<id>_rev.png`
(Do-Undo). Copy, oracle, shuffled, blend and blurred stand beside it, and each image that is not there is named with the
reason. What Do-Undo's newer version prints stands first, with n and the number of failed pairs. Started once more, a
judge is asked only for what is not kept yet.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from visdyn.datasets import doundo_bench
from visdyn.datasets.action_classes import load_classes
from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.benches.bench import AURORA_BENCH, BENCHES, DOUNDO_BENCH
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.benches.bench_doundo import EditingEvaluation
from visdyn.evaluation.judges.run import judge_bench, spread
from visdyn.evaluation.leaderboard import leaderboard
from visdyn.evaluation.metrics.action_accuracy import ActionClassifier
from visdyn.evaluation.metrics.captions import Captioner, captions_of, read_captions
from visdyn.evaluation.metrics.optical_flow_backends import NamedFlow, resolved
from visdyn.evaluation.metrics.registry import NEWER_COLUMNS, newer_values
from visdyn.evaluation.systems import doundo_systems, forward_systems
from visdyn.evaluation.systems.baselines import baseline_systems
from visdyn.evaluation.systems.outputs import SystemImages
from visdyn.mining.reversible import with_short_prompts
from visdyn.models.editors.protocol import REVERSE_FROM
from visdyn.models.encoders import ImageEncoder, ImageTextEncoder
from visdyn.params.evaluation import JudgeEntry
from visdyn.quarantine import Quarantine
from visdyn.yaml_files import parse_yaml

ENCODERS = {
    "aurora": ("openai/clip-vit-base-patch32", "facebook/dino-vits16", "bootstrapping"),
    "doundo": ("laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "facebook/dinov2-large", "doundo"),
}


def score_folder(options: argparse.Namespace) -> dict[str, pd.DataFrame]:
    """Score a folder; the options are those of `parser`.

    Returns:
        The tables that were written to `--out`: scores, leaderboard, quarantine; of Do-Undo newer_version; of judges
        judge_scores and judge_runs.
    """
    quarantine, out = Quarantine(most=1.0), Path(options.out or f"{options.folder.rstrip('/')}-scores")
    bench = BENCHES[options.bench]
    items, systems, scores = {"aurora": _aurora, "doundo": _doundo}[bench.name](options, quarantine)
    board = leaderboard(scores, bench.paper, systems[-1].name, 0, bench.label_columns)
    set_aside = pd.DataFrame([(one.item, one.reason) for one in quarantine], columns=["item", "reason"])
    tables = {"scores": scores, "leaderboard": board, "quarantine": set_aside.sort_values("item")}
    if bench is DOUNDO_BENCH:
        tables["newer_version"] = _newer_version(scores, len(items))
    judged = [
        judge_bench(entry, bench, items, systems[-1:], out / "replies", options.device) for entry in _judges(options)
    ]
    for place, name in enumerate(("judge_scores", "judge_runs")):
        if judged:
            tables[name] = pd.concat([pair[place] for pair in judged], ignore_index=True)
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        table.to_csv(out / f"{name}.csv", index=False, float_format="%.6g")
    return tables


def parser() -> argparse.ArgumentParser:
    """Return the command line."""
    one = argparse.ArgumentParser(prog="visdyn.evaluation.score", description="Score a folder of generated images.")
    one.add_argument("folder", help="the images")
    one.add_argument("--bench", required=True, choices=tuple(BENCHES))
    one.add_argument("--root", required=True, help="folder of AURORA's test.json, or of the EPIC-KITCHENS frames")
    one.add_argument("--annotations", help="Do-Undo's annotations_test.json")
    one.add_argument("--prompt", default="long", choices=("long", "short"), help="prompts the images were made with")
    one.add_argument("--name", help="of the system; the folder's by default")
    one.add_argument("--items", type=int, default=0, help="first items of each subset only (pairs of Do-Undo)")
    one.add_argument("--preset", help="of the encoders: bootstrapping, doundo or embedded; the paper's by default")
    one.add_argument("--clip", help="CLIP folder or hub id; '' leaves CLIP's metrics out")
    one.add_argument("--dino", help="DINO folder or hub id; '' leaves DINO out")
    one.add_argument("--captions", help="CSV: image (target, start, end), subset, id, caption")
    one.add_argument("--captioner", help="captioning model, such as Salesforce/blip-image-captioning-large")
    one.add_argument("--flow", default="auto", choices=("auto", "farneback", "dis", "raft"))
    one.add_argument("--flow-size", type=int, default=512)
    one.add_argument("--classifier", help="file of LaViLa's action classifier, for Do-Undo's A-F, A-R, N-F and N-R")
    one.add_argument("--judge", action="append", default=[], help="endpoint:MODEL or transformers:MODEL; repeatable")
    one.add_argument("--base-url", default="", help="of the endpoint")
    one.add_argument("--key-variable", default="", help="environment variable with the endpoint's key")
    one.add_argument("--repeats", type=int, default=1)
    one.add_argument("--judge-prompt", default="", help="paper, viescore, kit or a file; the paper's where printed")
    one.add_argument("--prompt-clone", default="", help="your clone of the repository that has the prompt's words")
    one.add_argument("--sampling", action="append", default=[], metavar="NAME=VALUE",
                     help="field of each request, such as temperature=1, or seed=null to send none")  # fmt: skip
    one.add_argument("--concurrency", type=int, default=4)
    one.add_argument("--device", default="cpu")
    one.add_argument("--out", help="folder of the tables; <folder>-scores by default")
    return one


def main(arguments: Sequence[str] | None = None) -> None:
    """Score a folder and print its rows."""
    tables = score_folder(parser().parse_args(arguments))
    if "newer_version" in tables:
        print(tables["newer_version"].to_string(index=False, float_format="%.3f"), end="\n\n")
    print(tables["leaderboard"].drop(columns=["paper", "reference"]).to_string(index=False, float_format="%.3f"))
    if "judge_scores" in tables:
        print(spread(tables["judge_scores"]).to_string(index=False, float_format="%.2f"))
        print(tables["judge_runs"].to_string(index=False))
    print(f"{len(tables['quarantine'])} set aside")
    for item, reason in tables["quarantine"].itertuples(index=False):
        print(f"  {item}: {reason}")


def _aurora(options: argparse.Namespace, quarantine: Quarantine) -> tuple[list, list[SystemImages], pd.DataFrame]:
    seen: dict[str, int] = {}
    items = []
    for item in load_bench(options.root, quarantine=quarantine, decode=True, targets="optional"):
        seen[item.subset] = seen.get(item.subset, 0) + 1
        if not options.items or seen[item.subset] <= options.items:
            items.append(item)
    known, model = _captions(options)
    keys = [(item.subset, item.id) for item in items]
    captions = captions_of("target", keys, [item.target for item in items], known, model)
    evaluation = ForwardEvaluation(items, captions, None, *_encoders(options), True, model)
    own = forward_systems.from_folder(options.folder, _name(options), options.folder, items, quarantine)
    systems = [*baseline_systems(AURORA_BENCH, items, AURORA_BENCH.requests(), 0), own]
    return items, systems, forward_systems.score_forward(evaluation, systems)


def _doundo(options: argparse.Namespace, quarantine: Quarantine) -> tuple[list, list[SystemImages], pd.DataFrame]:
    if not options.annotations:
        raise SystemExit("--bench doundo needs --annotations, the benchmark's annotations_test.json")
    pairs = doundo_bench.load(options.annotations, options.root, quarantine)
    pairs = with_short_prompts(pairs, quarantine) if options.prompt == "short" else pairs
    pairs = pairs[: options.items or None]
    known, model = _captions(options)
    keys = [("", pair.id) for pair in pairs]
    captions = tuple(captions_of(end, keys, [getattr(pair, end) for pair in pairs], known, model)
                     for end in ("start", "end"))  # fmt: skip
    flow = NamedFlow(resolved(options.flow), None, options.device)
    evaluation = EditingEvaluation(
        pairs, captions, None, *_encoders(options), options.flow_size or None, flow, prompts=True,
        edited_captions=model, classes=load_classes(options.annotations) if options.classifier else {},
        classifier=ActionClassifier.from_file(options.classifier, options.device) if options.classifier else None,
    )  # fmt: skip
    own = doundo_systems.from_folder(options.folder, _name(options), options.folder, pairs, options.prompt, quarantine)
    requests = DOUNDO_BENCH.requests([options.prompt], REVERSE_FROM)
    systems = [*baseline_systems(DOUNDO_BENCH, pairs, requests, 0), own]
    return pairs, systems, doundo_systems.score_doundo(evaluation, systems)


def _newer_version(scores: pd.DataFrame, num_pairs: int) -> pd.DataFrame:
    """Return the newer version's columns for each system, undone from the true end: system, column, value, n, failed.

    `failed` pairs have no value: no image, no text, no class; the authors' code leaves such a pair out of every column.
    """
    own = newer_values(scores[scores["reverse_from"].fillna("") != "generated"])
    found = own.groupby(["system", "column"], sort=False)["value"].agg(value="mean", n="count").reset_index()
    order = {head: place for place, head in enumerate(NEWER_COLUMNS.values())}
    found = found.sort_values("column", key=lambda heads: heads.map(order), kind="stable")
    return found.sort_values("system", kind="stable").assign(failed=num_pairs - found["n"])


def _captions(options: argparse.Namespace) -> tuple[dict, Captioner | None]:
    known = read_captions(options.captions) if options.captions else {}
    return known, Captioner(options.captioner, options.device) if options.captioner else None


def _encoders(options: argparse.Namespace) -> tuple[ImageTextEncoder | None, ImageEncoder | None]:
    clip, dino, preset = ENCODERS[options.bench]
    clip, dino = (usual if given is None else given for given, usual in ((options.clip, clip), (options.dino, dino)))
    preset = options.preset or preset
    return (
        ImageTextEncoder.from_pretrained(clip, preset, options.device) if clip else None,
        ImageEncoder.from_pretrained(dino, preset, options.device) if dino else None,
    )


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


def _name(options: argparse.Namespace) -> str:
    return options.name or Path(options.folder).resolve().name


if __name__ == "__main__":
    main()
