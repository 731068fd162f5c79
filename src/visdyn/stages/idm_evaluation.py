"""Stage `idm_evaluation`: what the IDMs predict on AURORA's test pairs, scored (Bootstrapping, Table 1, Figure 8)."""

from __future__ import annotations

import pandas as pd

from visdyn.datasets.aurora import load_bench
from visdyn.evaluation.benches.inverse import examine, text_table
from visdyn.models.encoders import ImageTextEncoder
from visdyn.pipeline.stage import Stage


def predict(stage: Stage) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Predict the actions of all test pairs with every chain's base model and IDMs, and score true and false actions.

    Returns:
        predictions: columns model (zero_shot, idm, and idm_same_labels where it is trained), chain, subset, id,
            reference, prediction.
        likelihoods: of the true action and of its negatives, as `inference.probing.probe` has them.
    """
    names = {"zero_shot": stage.settings.idm.base, "idm": "models/idm"}
    if stage.settings.idm.same_labels:
        names["idm_same_labels"] = "models/idm_same_labels"
    models = {(name, chain): model for name, given in names.items() for chain, model in stage.in_chains(given)}
    items, longest = load_bench(stage.data("aurora")), stage.params.max_new_tokens
    return examine(models, items, stage.seed, stage.device, longest, stage.settings.prompts)


def score_texts(stage: Stage, predictions: pd.DataFrame) -> pd.DataFrame:
    """Score predictions by text metrics with bootstrap intervals: columns model, chain, metric, value, n, low, high.

    The text encoder of `models/clip` gives the metric `embedding`; BERTScore is added where `idm_evaluation.bert_score`
    names its model.
    """
    encoder = ImageTextEncoder.from_pretrained(stage.reference("models/clip"), "embedded", stage.device)
    return text_table(predictions, encoder, stage.seed, stage.params.bert_score, stage.device)
