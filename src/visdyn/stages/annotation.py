"""Stage `annotation`: the IDM labels the mined pairs, Algorithm 1 selects among them, the labels are measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from visdyn.compute.executor import chosen_executor
from visdyn.compute.gpus import count_gpus
from visdyn.compute.rows import Execution
from visdyn.compute.seeds import sampling_seed
from visdyn.datasets.annotated import write_annotated
from visdyn.inference.annotation import Decoding, Labelled, Labeller, annotate_pairs
from visdyn.kitchen.truth import open_truth
from visdyn.mining.mined_files import ImagePair, read_lengths, read_pairs
from visdyn.mining.stratified import stratified_top_k
from visdyn.pipeline.stage import Stage
from visdyn.quarantine import Quarantine
from visdyn.training.runs import member

PAIRS = ["dataset", "class", "video", "pair", "action", "log_likelihood", "selected", "true_action", "correct"]
SUMMARY = ["chain", "dataset", "videos", "mean_seconds", "total_hours", "observations_per_video", "actions_per_video"]
SUMMARY += ["words_per_action", "pairs", "selected"]


def load_pairs(stage: Stage) -> list[ImagePair]:
    """Read the key-frame pairs that stage `mining` wrote."""
    return read_pairs(stage.path("data/mined"))


def label_pairs(stage: Stage, pairs: Sequence[ImagePair], quarantine: Quarantine) -> dict[int, list[Labelled]]:
    """Label the pairs with every chain's IDM (`annotation.model`); what cannot be read is set aside once.

    Returns:
        chain -> labelled pairs.
    """
    first = stage.chains[0]
    return {
        chain: _label_chain(stage, chain, pairs, quarantine if chain == first else stage.quarantine())
        for chain in stage.chains
    }


def _label_chain(stage: Stage, chain: int, pairs: Sequence[ImagePair], quarantine: Quarantine) -> list[Labelled]:
    """Label with one chain's IDM: one process a GPU, or a core where there is none."""
    params, on_gpu = stage.params, stage.device == "cuda"
    seed = sampling_seed(stage.seed, "labels", chain)
    decoding = Decoding(params.decoding, params.temperature, params.max_new_tokens, seed)
    labeller = Labeller(stage.reference(params.model, chain), stage.device, decoding, stage.settings.prompts)
    runtime = stage.settings.runtime
    processes = count_gpus() if on_gpu else 0
    options = {"log": stage.log, "log_seconds": runtime.log_seconds}
    execution = Execution(chosen_executor(), processes, gpus=float(on_gpu), **options)
    return annotate_pairs(labeller, pairs, stage.scratch(f"labels/s{chain}"), params.batch_size, execution, quarantine)


def select_pairs(stage: Stage, labelled: Mapping[int, Sequence[Labelled]]) -> dict[int, list[Labelled]]:
    """Select `annotation.top_k_per_dataset` pairs of each dataset in each chain (`select`)."""
    return {chain: select(items, stage.params.top_k_per_dataset) for chain, items in labelled.items()}


def select(labelled: Sequence[Labelled], k: int) -> list[Labelled]:
    """Take `k` pairs of each dataset by Algorithm 1 (class by class, best first); pairs without a label never."""
    datasets = sorted({item.pair.dataset for item in labelled})
    usable = [item for item in labelled if item.score > float("-inf")]
    return [
        item
        for dataset in datasets
        for item in stratified_top_k([item for item in usable if item.pair.dataset == dataset], k)
    ]


def write_selected(
    stage: Stage, labelled: Mapping[int, Sequence[Labelled]], selected: Mapping[int, Sequence[Labelled]]
) -> pd.DataFrame:
    """Write each chain's triplets to `data/annotated/s<chain>`; return the table of all pairs (annotation/pairs.csv).

    The known actions, where there are any, are written beside the labels for measuring only.
    """
    truth, tables = open_truth(stage.kitchen), []
    for chain, items in labelled.items():
        actions = truth.true_actions([item.pair.frames for item in items])
        table, triplets = pairs_table(items, selected[chain], actions or [""] * len(items))
        write_annotated(triplets, member(stage.path("data/annotated"), chain))
        tables.append(table.assign(chain=chain))
    return pd.concat(tables, ignore_index=True)[["chain", *PAIRS]]


def pairs_table(
    labelled: Sequence[Labelled], selected: Sequence[Labelled], true_actions: Sequence[str]
) -> tuple[pd.DataFrame, list[dict]]:
    """Return the table of all pairs (columns `PAIRS`), and the selected ones as `write_annotated` takes them.

    Args:
        true_actions: the known action of each labelled pair, "" where it is not exactly one or, as for real clips, not
            known at all.
    """
    kept, rows, triplets = {item.id for item in selected}, [], []
    for item, true in zip(labelled, true_actions, strict=True):
        pair = item.pair
        clip = {
            "dataset": pair.dataset,
            "class": pair.class_name,
            "video": pair.video,
            "pair": f"{pair.frame_a}-{pair.frame_b}",
        }
        correct = float(item.action == true) if true else float("nan")
        rows.append({**clip, "action": item.action, "log_likelihood": item.score, "selected": int(item.id in kept)})
        rows[-1] |= {"true_action": true, "correct": correct}
        if item.id in kept:
            images = {"source": pair.source, "target": pair.target}
            triplets.append({**clip, **images, "action": item.action, "true_action": true})
    return pd.DataFrame(rows, columns=PAIRS), triplets


def summarise_datasets(stage: Stage, table: pd.DataFrame) -> pd.DataFrame:
    """Summarise the pairs of each chain and dataset as the paper's Table 7 does (`mining_summary`)."""
    return mining_summary(table, read_lengths(stage.path("data/mined")))


def mining_summary(table: pd.DataFrame, lengths: pd.DataFrame) -> pd.DataFrame:
    """Summarise mined and labelled pairs per chain and dataset as the paper's Table 7 does (annotation/summary.csv).

    Args:
        table: as `write_selected` returns it.
        lengths: of all clips that were mined, also those without a pair (`visdyn.mining.mined_files.read_lengths`).
    """
    rows = []
    for (chain, dataset), part in table.groupby(["chain", "dataset"]):
        seconds = lengths.loc[lengths["dataset"] == dataset, "seconds"]
        videos = part.groupby(["class", "video"]).size()
        rows.append(
            {
                "chain": chain,
                "dataset": dataset,
                "videos": len(videos),
                "mean_seconds": seconds.mean(),
                "total_hours": seconds.sum() / 3600,
                "observations_per_video": (videos + 1).mean(),
                "actions_per_video": videos.mean(),
                "words_per_action": part["action"].str.split().str.len().mean(),
                "pairs": len(part),
                "selected": int(part["selected"].sum()),
            }
        )
    return pd.DataFrame(rows, columns=SUMMARY)
