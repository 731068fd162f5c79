"""Similarity of predicted and reference actions (Bootstrapping, Table 1); each metric with n and a bootstrap interval.

All values are fractions in [0, 1], except that cosines and a rescaled BERTScore can be negative.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from visdyn.evaluation.metrics.similarity import row_cosines
from visdyn.evaluation.statistics import Interval, bootstrap_interval, bootstrap_statistic

MAX_ORDER = 4  # BLEU-1 to BLEU-4


class TextEncoder(Protocol):
    """Anything that embeds texts."""

    def embed_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return float32 (N, D), rows of unit length."""


@dataclass(frozen=True)
class Metric:
    """One metric over n items with its bootstrap interval [low, high]."""

    metric: str
    value: float
    n: int
    low: float
    high: float


def text_metrics(
    predictions: Sequence[str], references: Sequence[str], seed: int, encoder: TextEncoder | None = None
) -> list[Metric]:
    """Return rouge1, rougeL, bleu1, bleu2, bleu3, bleu (BLEU-4), exact and, with an encoder, embedding."""
    metrics = [rouge(predictions, references, name, seed) for name in ("rouge1", "rougeL")]
    metrics += [*bleu(predictions, references, seed), exact_match(predictions, references, seed)]
    return metrics + ([embedding_score(encoder, predictions, references, seed)] if encoder is not None else [])


def rouge(predictions: Sequence[str], references: Sequence[str], name: str = "rouge1", seed: int = 0) -> Metric:
    """Return the mean ROUGE F1 (`rouge1`, `rouge2` or `rougeL`) of the rouge-score package with its Porter stemmer."""
    from rouge_score.rouge_scorer import RougeScorer

    _check_lengths(predictions, references)
    scorer = RougeScorer([name], use_stemmer=True)
    pairs = zip(references, predictions, strict=True)
    values = [scorer.score(reference, prediction)[name].fmeasure for reference, prediction in pairs]
    return _make_metric(name, bootstrap_interval(values, seed))


def bleu(predictions: Sequence[str], references: Sequence[str], seed: int = 0) -> list[Metric]:
    """Return corpus BLEU-1 to BLEU-4 as metrics bleu1, bleu2, bleu3 and bleu.

    Counts are sacrebleu's (13a tokens, lower-cased, one reference), not smoothed, with the brevity penalty: a corpus
    without a matching n-gram of the highest order scores 0. The paper prints one BLEU and does not say which order or
    tokens; BLEU-4 is the usual one. The interval resamples items and recomputes the corpus score.
    """
    counts = _bleu_counts(predictions, references)
    metrics = []
    for order in range(1, MAX_ORDER + 1):
        interval = bootstrap_statistic(
            len(counts), lambda rows, n=order: _corpus_bleu(counts[rows].sum(axis=1), n), seed
        )
        metrics.append(_make_metric("bleu" if order == MAX_ORDER else f"bleu{order}", interval))
    return metrics


def exact_match(predictions: Sequence[str], references: Sequence[str], seed: int = 0) -> Metric:
    """Return the share of predictions equal to their reference; case, extra spaces and a final stop do not count."""
    _check_lengths(predictions, references)
    values = [
        _normalise_text(prediction) == _normalise_text(reference)
        for prediction, reference in zip(predictions, references, strict=True)
    ]
    return _make_metric("exact", bootstrap_interval(np.array(values, float), seed))


def embedding_score(
    encoder: TextEncoder, predictions: Sequence[str], references: Sequence[str], seed: int = 0
) -> Metric:
    """Return the mean cosine between embeddings of prediction and reference.

    It stands in for BERTScore where no pretrained text model is at hand, and is not comparable with it.
    """
    _check_lengths(predictions, references)
    values = row_cosines(encoder.embed_texts(list(predictions)), encoder.embed_texts(list(references)))
    if len(values) != len(predictions):
        raise ValueError(f"the encoder answered with {len(values)} rows for {len(predictions)} texts")
    return _make_metric("embedding", bootstrap_interval(values, seed))


def _bleu_counts(predictions: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """Return int64 (N, 10): matching n-grams and n-grams of order 1 to 4, prediction and reference length."""
    from sacrebleu.metrics import BLEU

    _check_lengths(predictions, references)
    # effective_order only silences a warning meant for sentence scores: the counts do not depend on it.
    scorer = BLEU(lowercase=True, tokenize="13a", smooth_method="none", effective_order=True)
    sentences = [
        scorer.sentence_score(*pair) for pair in zip(predictions, [[text] for text in references], strict=True)
    ]
    return np.array([[*item.counts, *item.totals, item.sys_len, item.ref_len] for item in sentences], np.int64)


def _corpus_bleu(sums: np.ndarray, order: int) -> np.ndarray:
    """Return unsmoothed BLEU (B,) from summed counts (B, 10), equation 3 of Papineni et al. 2002."""
    correct, total = sums[:, :order].astype(float), sums[:, MAX_ORDER : MAX_ORDER + order].astype(float)
    length, reference = sums[:, -2].astype(float), sums[:, -1].astype(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.exp(np.log(correct / total).mean(axis=1))
        penalty = np.exp(np.minimum(0, 1 - reference / length))
        return np.where((correct > 0).all(axis=1), precision * penalty, 0.0)


def _check_lengths(predictions: Sequence[str], references: Sequence[str]) -> None:
    if not len(predictions):
        raise ValueError("no predictions to score")
    if len(predictions) != len(references):
        raise ValueError(f"{len(predictions)} predictions cannot be paired with {len(references)} references")


def _make_metric(name: str, interval: Interval) -> Metric:
    return Metric(name, interval.value, interval.n, interval.low, interval.high)


def _normalise_text(text: str) -> str:
    return " ".join(text.lower().split()).removesuffix(".").rstrip()
