"""Inverse dynamics on held-out pairs: predictions and text metrics (Bootstrapping, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from visdyn.evaluation.metrics.bert_score import bert_score
from visdyn.evaluation.metrics.similarity import ImageTextEncoder
from visdyn.evaluation.metrics.text_metrics import Metric, text_metrics
from visdyn.inference.probing import probe
from visdyn.models import load_model
from visdyn.models.token.unified import UnifiedModel
from visdyn.trajectory import Trajectory

# Image tokens that are decoded after, or scored, together: at 7B their keys and values take 17 GB.
TOKENS_AT_ONCE = 2**15


def describe(model: UnifiedModel, trajectories: Sequence[Trajectory], name: str) -> pd.DataFrame:
    """Predict the action of every pair: columns model, subset, id, reference, prediction."""
    predictions = model.inverse_dynamics.predict([t.source for t in trajectories], [t.target for t in trajectories])
    return pd.DataFrame(
        {
            "model": name,
            "subset": [item.subset for item in trajectories],
            "id": [item.id for item in trajectories],
            "reference": [item.action for item in trajectories],
            "prediction": predictions,
        }
    )


def examine(
    models: Mapping[str, str | Path], trajectories: Sequence[Trajectory], seed: int, device: str = "cpu"
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Load one model after another and return `describe` of all, and their action likelihoods as `probe` has them."""
    predictions, likelihoods = [], []
    for name, path in models.items():
        model = load_model(path, device=device)
        model.batch_size = _batch_size(model)
        predictions.append(describe(model, trajectories, name))
        likelihoods.append(probe(model, trajectories, seed, name, definitions=()))  # of actions alone
    return pd.concat(predictions), pd.concat(likelihoods)


def _batch_size(model: UnifiedModel) -> int:
    """Return how many pairs go together: 64 small ones, 16 of 1,024 codes an image."""
    tokens = 2 * (model.vqgan.config.resolution // model.vqgan.config.downsampling) ** 2
    return max(1, min(model.batch_size, TOKENS_AT_ONCE // tokens))


def text_table(
    predictions: pd.DataFrame, encoder: ImageTextEncoder, seed: int, bert_model: str | None = None, device: str = "cpu"
) -> pd.DataFrame:
    """Score predictions of every model: columns model, metric, value, n, low, high.

    Args:
        bert_model: of BERTScore (`roberta-large`); None leaves it out. Where the package or the model is missing, its
            row is empty and a line says what to do.
    """
    tables = []
    for model, part in predictions.groupby("model"):
        texts = part["prediction"].tolist(), part["reference"].tolist()
        metrics = text_metrics(*texts, seed, encoder)
        if bert_model is not None:
            metrics.append(_bert_score(*texts, seed, bert_model, device))
        tables.append(pd.DataFrame([asdict(metric) for metric in metrics]).assign(model=model))
    return pd.concat(tables, ignore_index=True)[["model", "metric", "value", "n", "low", "high"]]


def _bert_score(predictions: list[str], references: list[str], seed: int, model: str, device: str) -> Metric:
    try:
        return bert_score(predictions, references, seed, model, device=device)
    except (ImportError, OSError) as error:
        print(f"no BERTScore: {error}")
        return Metric("bert_score", float("nan"), 0, float("nan"), float("nan"))
