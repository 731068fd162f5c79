"""BERTScore through the bert-score package: the paper profile's first text metric (Bootstrapping, Table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from visdyn.evaluation.metrics.text_metrics import Metric
from visdyn.evaluation.statistics import bootstrap_interval


def bert_score(
    predictions: Sequence[str],
    references: Sequence[str],
    seed: int = 0,
    model: str | Path = "roberta-large",
    num_layers: int | None = 17,
    rescale: bool = True,
    baseline_path: str | Path | None = None,
    device: str = "cpu",
) -> Metric:
    """Return the mean BERTScore F1 with its bootstrap interval, as metric `bert_score`.

    The defaults (roberta-large, layer 17, rescaled with the package's English baseline) are the package's own and
    those of the authors' later evaluator; the paper's zero-shot value of .05 shows that its scores were rescaled.
    An empty prediction has a raw score of 0, as in the package, and so a negative rescaled one.

    Args:
        predictions, references: paired texts.
        seed: of the bootstrap.
        model: hub id, or a folder holding model and tokenizer.
        num_layers: layer whose states are compared; None takes the package's choice, which it knows for hub ids only.
        rescale: map the baseline to 0, so that 0 means "as two unrelated sentences".
        baseline_path: the package's baseline table, needed when rescaling with a folder as `model`.
        device: torch device.

    Raises:
        ImportError: bert-score is not installed.
        ValueError: sequences that cannot be paired, or rescaling without a baseline.
    """
    if not len(predictions) or len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be paired with {len(references)} references")
    scorer = _load_scorer(str(model), num_layers, rescale, baseline_path, device)
    filled = [index for index, text in enumerate(predictions) if text.strip()]
    empty = _empty_score(scorer) if rescale else 0.0
    values = np.full(len(predictions), empty)
    if filled:
        pairs = [predictions[index] for index in filled], [references[index] for index in filled]
        values[filled] = scorer.score(*pairs)[2].numpy()
    interval = bootstrap_interval(values, seed)
    return Metric("bert_score", interval.value, interval.n, interval.low, interval.high)


def _load_scorer(model: str, num_layers: int | None, rescale: bool, baseline_path: str | Path | None, device: str):
    try:
        from bert_score import BERTScorer
    except ImportError as error:
        raise ImportError("BERTScore needs the package bert-score: pip install 'visdyn[bertscore]'") from error
    if rescale and baseline_path is None and Path(model).is_dir():
        raise ValueError(f"no baseline is known for the folder {model}: give baseline_path, or rescale=False")
    baseline = str(baseline_path) if baseline_path is not None else None
    scorer = BERTScorer(
        model_type=model,
        num_layers=num_layers,
        lang="en",
        rescale_with_baseline=rescale,
        baseline_path=baseline,
        device=device,
    )
    # Some tokenizers state no maximum, which their truncation cannot take (bert-score passes it on as it is).
    tokenizer = scorer._tokenizer
    tokenizer.model_max_length = min(tokenizer.model_max_length, 512)
    return scorer


def _empty_score(scorer) -> float:
    baseline = float(scorer.baseline_vals[2])
    return -baseline / (1 - baseline)
