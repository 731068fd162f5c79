"""Inverse dynamics on held-out pairs: predictions and text metrics (Bootstrapping, Table 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from visdyn.evaluation.metrics.bert_score import bert_score
from visdyn.evaluation.metrics.similarity import ImageTextEncoder
from visdyn.evaluation.metrics.text_metrics import Metric, text_metrics
from visdyn.inference.probing import probe
from visdyn.models import load_model
from visdyn.models.token.unified import UnifiedModel
from visdyn.params.prompts import Prompts
from visdyn.trajectory import Trajectory

# Image tokens that are decoded after, or scored, together: at 7B their keys and values take 17 GB.
TOKENS_AT_ONCE = 2**15


def describe(
    model: UnifiedModel, trajectories: Sequence[Trajectory], name: str, chain: int, max_new_tokens: int = 64
) -> pd.DataFrame:
    """Predict the action of every pair: columns model, chain, subset, id, reference, prediction."""
    inverse = replace(model.inverse_dynamics, max_new_tokens=max_new_tokens)
    predictions = inverse.predict([t.source for t in trajectories], [t.target for t in trajectories])
    return pd.DataFrame(
        {
            "model": name,
            "chain": chain,
            "subset": [item.subset for item in trajectories],
            "id": [item.id for item in trajectories],
            "reference": [item.action for item in trajectories],
            "prediction": predictions,
        }
    )


def examine(
    models: Mapping[tuple[str, int], str | Path],
    trajectories: Sequence[Trajectory],
    seed: int,
    device: str = "cpu",
    max_new_tokens: int = 64,
    prompts: Prompts | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Load one model after another and return `describe` of all, and their action likelihoods as `probe` has them.

    Args:
        models: (name, chain) -> folder or hub id.
        max_new_tokens: longest answer. A model that was never fine-tuned goes on, and what is cut off is not measured:
            a short limit flatters it.
        prompts: the words for a model that brings none of its own.
    """
    predictions, likelihoods = [], []
    for (name, chain), path in models.items():
        model = load_model(path, device=device, prompts=prompts)
        model.batch_size = _batch_size(model)
        predictions.append(describe(model, trajectories, name, chain, max_new_tokens))
        likelihoods.append(probe(model, trajectories, seed, name, definitions=(), chain=chain))  # of actions alone
    return pd.concat(predictions), pd.concat(likelihoods)


def _batch_size(model: UnifiedModel) -> int:
    """Return how many pairs go together: 64 small ones, 16 of 1,024 codes an image."""
    tokens = 2 * (model.vqgan.config.resolution // model.vqgan.config.downsampling) ** 2
    return max(1, min(model.batch_size, TOKENS_AT_ONCE // tokens))


def text_table(
    predictions: pd.DataFrame, encoder: ImageTextEncoder, seed: int, bert_model: str | None = None, device: str = "cpu"
) -> pd.DataFrame:
    """Score predictions of every model and chain: columns model, chain, metric, value, n, low, high.

    Args:
        bert_model: of BERTScore (`roberta-large`); None leaves it out. Where the package or the model is missing, its
            row is empty and a line says what to do.
    """
    tables = []
    for (model, chain), part in predictions.groupby(["model", "chain"]):
        texts = part["prediction"].tolist(), part["reference"].tolist()
        metrics = text_metrics(*texts, seed, encoder)
        if bert_model is not None:
            metrics.append(_bert_score(*texts, seed, bert_model, device))
        tables.append(pd.DataFrame([asdict(metric) for metric in metrics]).assign(model=model, chain=chain))
    return pd.concat(tables, ignore_index=True)[["model", "chain", "metric", "value", "n", "low", "high"]]


def _bert_score(predictions: list[str], references: list[str], seed: int, model: str, device: str) -> Metric:
    try:
        return bert_score(predictions, references, seed, model, device=device)
    except (ImportError, OSError) as error:
        print(f"no BERTScore: {error}")
        return Metric("bert_score", float("nan"), 0, float("nan"), float("nan"))
