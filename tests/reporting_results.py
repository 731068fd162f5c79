"""Small made-up results in the exact layout that stages exchange, for the tests of the reporting layer."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import reporting_extra

from visdyn.inference.candidates import KEYS, VERIFIERS
from visdyn.paths import repository_root
from visdyn.reporting import published

SUBSETS = ("magicbrush", "ag", "something", "whatsup", "kubric")
FDM_LEVEL = {
    "copy": 0.0, "oracle": 9.5, "shuffled": 0.6, "tokenizer_ceiling": 7.9, "zero_shot": 0.4, "supervised": 3.2,
    "supervised_weighted": 3.5, "synthetic": 3.9, "synthetic_weighted": 4.3, "synthetic_weighted_nofloor": 2.8,
    "synthetic_weighted_true": 4.9, "SmartEdit": 4.1, "supervised_best_of_2": 3.6, "supervised_best_of_8": 4.4,
    "supervised_best_of_3": 3.8, "supervised_best_of_3_by_oracle": 5.1, "supervised_best_of_3_by_likelihood": 3.3,
    "supervised_best_of_3_by_random": 3.2, "blend": 5.0, "blurred": 6.1,
}  # fmt: skip
DOUNDO_LEVEL = {"copy": 0.1, "oracle": 1.0, "shuffled": 0.2, "base": 0.4, "doundo": 0.7, "doundo_c": 0.72}
VERBS = ("open", "close", "turn-on", "turn-off", "pick-up", "put-down", "place-in", "remove-from", "stack")
FAMILIARITY = ("common", "rare", "unseen")
DRAWN = [*KEYS, "candidate", *VERIFIERS.values()]
CANDIDATE_METRICS = ["editing_success", "minimal_editing", "score", "success", "l1_paper", "clip_i"]
KINDS = ("random_action", "random_observation", "copy_observation", "inverse_observation")


def write(profile: Path, seed: int = 0) -> Path:
    """Write every result file of the contract into `profile`, and return it."""
    rng = np.random.default_rng(seed)
    tables = {
        "probing/likelihoods.csv": _likelihoods(rng, {"tiny-a": 0.05, "tiny-b": 0.2}),
        "idm_evaluation/likelihoods.csv": _likelihoods(rng, {"zero_shot": 0.05, "idm": 1.0}),
        "mining/keyframes.csv": _keyframes(rng),
        "mining/segments.csv": _segments(rng),
        "mining/prompts.csv": _prompts(rng),
        "idm_evaluation/text_metrics.csv": _text_metrics(),
        "annotation/pairs.csv": _pairs(rng),
        "annotation/summary.csv": _summary(),
        "fdm/training.csv": _training(rng, "arm", ("supervised", "synthetic_weighted"), ["loss"]),
        "fdm/arms.csv": _arms(),
        "doundo/training.csv": _training(rng, "variant", ("doundo", "doundo_c"), ["loss", "consistency"]),
        **split_candidates(candidates(rng)),
        "evaluation/fdm_scores.csv": _fdm_scores(rng),
        "evaluation_doundo/doundo_scores.csv": _doundo_scores(rng),
        "base_measures/encoders.csv": pd.DataFrame(
            [("clip", "caption recall at 1", 0.61, 64)], columns=["encoder", "measure", "value", "n"]
        ),
        "base_measures/tokenizer.csv": pd.DataFrame([("ceiling score", 7.9, 64)], columns=["measure", "value", "n"]),
    }
    tables |= reporting_extra.frames(rng)
    write_external(profile)
    for name, frame in tables.items():
        path = profile / "reports" / "results" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.to_csv(path, index=False, float_format="%.6g")
    # What data/recorded gives is the same in every profile; the committed results are read as they are.
    recorded = repository_root() / "reports/results/recorded"
    shutil.copytree(recorded, profile / "reports/results/recorded", dirs_exist_ok=True)
    _images(profile / "data" / "generated", rng)
    (profile / "params.yaml").write_text("root: .\n")
    return profile


def write_external(repository: Path) -> Path:
    """Write the results of real public data into a checkout, and return it."""
    folder = repository / "reports" / "results" / "external"
    folder.mkdir(parents=True, exist_ok=True)
    _aurora_copy().to_csv(folder / "aurora_copy.csv", index=False, float_format="%.6g")
    costs = [(subset, 50, 0.04, 0.16, 0.08) for subset in SUBSETS]
    names = ["subset", "n", "copy", "crop", "crop_both"]
    pd.DataFrame(costs, columns=names).to_csv(folder / "crop_cost.csv", index=False)
    rows = [("epic-100-validation", "open", "door", 30, 0.4), ("epic-100-validation", "open", "tap", 10, 0.4)]
    rows += [("epic-100-validation", "pick-up", "cup", 60, 0.4)]
    names = ["source", "verb", "noun", "count", "reversible_share"]
    pd.DataFrame(rows, columns=names).to_csv(folder / "segments.csv", index=False)
    return repository


def repository(folder: Path) -> Path:
    """Make `folder` a checkout that holds the papers' numbers and nothing else, and return it."""
    shutil.copytree(published.folder(), folder / "data" / "published", dirs_exist_ok=True)
    return folder


def candidates(rng: np.random.Generator, count: int = 8, items: int = 4, chains: int = 2) -> pd.DataFrame:
    """Scored candidates whose IDM log-likelihood follows the score, and whose own likelihood does not."""
    rows = []
    for chain in range(chains):
        for subset in SUBSETS:
            for item in range(items):
                for place, score in enumerate(rng.uniform(0, 10, count)):
                    idm, own = score / 5 - 3 + rng.normal(0, 0.4), rng.normal(-2, 0.3)
                    values = (score, 9.0, min(score, 9.0), int(score > 7), 0.2 - score / 100, 0.8 + score / 100)
                    rows.append(("supervised", chain, 0, subset, f"{item:03d}", place, idm, own, own, idm, *values))
    return pd.DataFrame(rows, columns=[*DRAWN, *CANDIDATE_METRICS])


def split_candidates(table: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return scored candidates as the two files in which stages leave them."""
    scores = table.melt([*KEYS, "candidate"], CANDIDATE_METRICS, "metric", "value")
    return {"verification/candidates.csv": table[DRAWN], "evaluation/candidate_scores.csv": scores}


def _likelihoods(rng: np.random.Generator, models: dict[str, float]) -> pd.DataFrame:
    rows = []
    for model, margin in models.items():
        for task in ("fdp", "idp"):
            for subset in SUBSETS:
                for item in range(6):
                    reference = rng.normal(-2, 0.5)
                    values = {"reference": reference} | {kind: reference + rng.normal(-margin, 0.5) for kind in KINDS}
                    for kind, value in values.items():
                        rows.append(
                            (
                                model,
                                0,
                                "image_tokens" if task == "fdp" else "action",
                                task,
                                subset,
                                f"{item:03d}",
                                kind,
                                value,
                                64,
                            )
                        )
    return pd.DataFrame(
        rows, columns=["model", "chain", "definition", "task", "subset", "id", "kind", "log_likelihood", "num_tokens"]
    )


def _keyframes(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for dataset in ("mit", "ucf101", "kinetics700"):
        for video in range(5):
            for mode, frames, clean in (
                ("top_then_space", 2, 0.1),
                ("greedy_spaced", 5, 0.3),
                ("quiet_around_peak", 2, 0.9),
            ):
                pairs = frames - 1 + int(rng.integers(0, 2))
                rows.append((dataset, "open", f"v{video}", mode, 48, pairs + 1, pairs, int(rng.binomial(pairs, clean))))
    return pd.DataFrame(
        rows,
        columns=["dataset", "class", "video", "mode", "num_frames", "num_keyframes", "num_pairs", "num_clean_pairs"],
    )


def _segments(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        (source, verb, noun, int(rng.integers(1, 40)), 1.0)
        for source in ("kitchen-train", "kitchen-test")
        for verb in VERBS
        for noun in ("cup", "plate", "drawer", "lamp", "tap")
    ]
    return pd.DataFrame(rows, columns=["source", "verb", "noun", "count", "reversible_share"])


def _prompts(rng: np.random.Generator) -> pd.DataFrame:
    rows = [
        ("kitchen", "test", direction, length, words, int(rng.integers(1, 20)))
        for direction in ("forward", "reverse")
        for length, spread in (("short", range(2, 6)), ("long", range(18, 40)))
        for words in spread
    ]
    return pd.DataFrame(rows, columns=["source", "split", "direction", "length", "num_words", "count"])


def _text_metrics() -> pd.DataFrame:
    values = {"zero_shot": 0.07, "idm": 0.6, "idm_same_labels": 0.5}
    rows = [
        (model, chain, metric, value + 0.02 * (chain - 0.5), 200, value - 0.03, value + 0.03)
        for model, value in values.items()
        for chain in range(2)
        for metric in ("embedding", "rouge1", "rougeL", "bleu1", "bleu2", "bleu3", "bleu", "exact")
    ]
    return pd.DataFrame(rows, columns=["model", "chain", "metric", "value", "n", "low", "high"])


def _pairs(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for dataset in ("mit", "ucf101", "kinetics700"):
        for label in VERBS[:6]:
            for pair in range(12):
                likelihood = rng.normal(-1, 0.4)
                correct = rng.uniform() < 0.5
                rows.append(
                    (
                        0,
                        dataset,
                        label,
                        f"v{pair}",
                        "0-24",  # the two frame numbers, as stage `annotation` writes them
                        "open the drawer",
                        likelihood,
                        int(pair < 5),
                        "open the drawer",
                        int(correct),
                    )
                )
    names = "chain dataset class video pair action log_likelihood selected true_action correct"
    return pd.DataFrame(rows, columns=names.split())


def _summary() -> pd.DataFrame:
    rows = [(0, "mit", 200, 3.0, 0.17, 2.1, 1.1, 4.2, 220, 100), (0, "ucf101", 200, 3.2, 0.18, 2.9, 1.9, 4.4, 380, 100)]
    names = "chain dataset videos mean_seconds total_hours observations_per_video actions_per_video words_per_action pairs selected"  # noqa: E501
    return pd.DataFrame(rows, columns=names.split())


def _training(rng: np.random.Generator, series: str, labels: tuple[str, ...], values: list[str]) -> pd.DataFrame:
    rows = []
    for label in labels:
        for chain in range(2):
            for step in range(0, 300, 10):
                losses = [3 * np.exp(-step / 100) + 1 + rng.normal(0, 0.05)]
                if "consistency" in values:
                    losses.append(float("nan") if label == "doundo" else 0.3 * np.exp(-step / 80))
                rows.append((label, chain, step, *losses))
    return pd.DataFrame(rows, columns=[series, "chain", "step", *values])


def _arms() -> pd.DataFrame:
    rows = [
        ("supervised", 0, 600, 0, "uniform", 0.0, 300),
        ("synthetic_weighted", 0, 600, 300, "recognition", 0.5, 300),
    ]
    return pd.DataFrame(
        rows, columns=["arm", "chain", "num_supervised", "num_synthetic", "weighting", "floor", "steps"]
    )


def _fdm_scores(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for system, level in FDM_LEVEL.items():
        for chain in range(3):
            for subset in SUBSETS:
                for item in range(4):
                    success = float(np.clip(level + rng.normal(0, 0.8), 0, 10)) if system != "copy" else 0.0
                    values = {
                        "editing_success": success, "minimal_editing": 8.5, "score": min(success, 8.5),
                        "success": float(success > 6), "copied": float(system == "copy"), "l1_paper": 0.1, "l1_matched": 0.05,  # noqa: E501
                        "clip_i": 0.9, "clip_t": 0.28, "dino": 0.85,
                    }  # fmt: skip
                    rows += [(system, chain, subset, f"{item:03d}", metric, value) for metric, value in values.items()]
    return pd.DataFrame(rows, columns=["system", "chain", "subset", "id", "metric", "value"])


def _doundo_scores(rng: np.random.Generator) -> pd.DataFrame:
    rows = []
    for system, level in DOUNDO_LEVEL.items():
        for chain in range(2):
            for prompt in ("long", "short"):
                for place, verb in enumerate(VERBS):
                    seen = FAMILIARITY[place % 3]
                    for direction, origin in (("forward", ""), ("reverse", "gt"), ("reverse", "generated")):
                        noise = rng.normal(0, 0.03)
                        values = {
                            "dino": 0.6 + 0.4 * level + noise, "clip_t": 0.25 + noise / 5, "l1": 0.1 - 0.05 * level,
                            "editing_success": 10 * level + noise, "minimal_editing": 9 + noise, "score": 9 * level, "success": level,  # noqa: E501
                            **({"of_f": 40 - 30 * level} if direction == "forward" else {"epe": 6.4, "epe_norm": 0.1, "returned": level, "joint": level / 2}),  # noqa: E501
                        }  # fmt: skip
                        rows += [
                            (system, chain, direction, origin, prompt, verb, seen, f"{place:03d}", metric, value)
                            for metric, value in values.items()
                        ]
    keys = ["system", "chain", "direction", "reverse_from", "prompt", "verb", "familiarity", "id"]
    return pd.DataFrame(rows, columns=[*keys, "metric", "value"])


def _aurora_copy() -> pd.DataFrame:
    measured = {
        "magicbrush": (0.0274, 0.027),
        "ag": (0.0694, 0.069),
        "something": (0.1351, 0.135),
        "whatsup": (0.0392, 0.039),
    }
    rows = [(subset, "paper", 48 if subset == "something" else 50, *values) for subset, values in measured.items()]
    rows += [("kubric", "paper", 50, 0.0150, 0.011), ("kubric", "matched", 50, 0.0110, float("nan"))]
    return pd.DataFrame(rows, columns=["subset", "geometry", "n", "l1", "published"])


def _images(generated: Path, rng: np.random.Generator) -> None:
    folder, doundo = generated / "evaluation", generated / "evaluation_doundo"
    for stage in (folder, doundo):
        stage.mkdir(parents=True, exist_ok=True)

    def pictures(count: int = 2) -> np.ndarray:
        images = np.full((count, 64, 64, 3), 225, dtype=np.uint8)
        for image in images:
            x, y = rng.integers(4, 44, 2)
            image[40:] = (170, 140, 110)
            image[y : y + 12, x : x + 12] = rng.integers(0, 255, 3)
        return images

    captions = np.array([f"pick up the {color} cup" for color in ("red", "green")])
    pair = {"source": pictures(), "target": pictures(), "captions": captions}
    np.savez(folder / "recognition_weights.npz", weights=rng.random((2, 8, 8)).astype(np.float32), **pair)
    np.savez(
        folder / "fdm_examples.npz", supervised=pictures(), synthetic_weighted=pictures(), zero_shot=pictures(), **pair
    )
    np.savez(folder / "sequence.npz", source=pictures(), step_1=pictures(), step_2=pictures(), captions=captions)
    both = {
        f"{system}_{direction}": pictures()
        for system in ("base", "doundo", "doundo_c")
        for direction in ("forward", "reverse")
    }
    for name in ("doundo_examples", "doundo_metrics"):
        np.savez(doundo / f"{name}.npz", **pair, **both)
    scores = {f"{key}_text": np.array([f"IF:{n} IDP:9" for n in range(2)]) for key in both}
    np.savez(doundo / "doundo_judged.npz", **pair, **both, **scores)


def read_sidecar(path: Path) -> dict[str, str]:
    """Return a sidecar's inputs."""
    return json.loads(path.read_text())["inputs"]
