"""Inverse dynamics on held-out pairs: predictions and text metrics (Bootstrapping, Table 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import pandas as pd

from visdyn.evaluation.similarity import ImageTextEncoder
from visdyn.evaluation.text import text_metrics
from visdyn.models.unified import UnifiedModel
from visdyn.trajectory import Trajectory


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


def text_table(predictions: pd.DataFrame, encoder: ImageTextEncoder, seed: int) -> pd.DataFrame:
    """Score predictions of every model: columns model, metric, value, n, low, high."""
    tables = []
    for model, part in predictions.groupby("model"):
        metrics = text_metrics(part["prediction"].tolist(), part["reference"].tolist(), seed, encoder)
        tables.append(pd.DataFrame([asdict(metric) for metric in metrics]).assign(model=model))
    return pd.concat(tables, ignore_index=True)[["model", "metric", "value", "n", "low", "high"]]
