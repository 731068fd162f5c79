"""Synthetic labels: greedy actions with the IDM's confidence, and the selection among them."""

from __future__ import annotations

import copy

import pytest
import torch

from visdyn.inference.annotation import Annotation, annotate
from visdyn.models.tokens import IMAGE
from visdyn.models.unified import UnifiedModel


class _Labeller:
    """An IDM with given answers."""

    def __init__(self, answers, scores):
        self.model, self.answers = self, (answers, torch.tensor(scores))

    def encode(self, images):
        return images

    def predict_codes(self, sources, targets):
        return self.answers


def test_an_empty_answer_is_never_likely():
    labels = annotate(_Labeller(["open", " ", "close "], [-1.5, 0.0, -0.25]), [1, 2, 3], [4, 5, 6])
    assert labels == [
        Annotation("open", -1.5),
        Annotation("", float("-inf")),
        Annotation("close", -0.25),
    ]


def test_the_score_is_the_log_likelihood_of_the_label(tiny, scenes):
    """The confidence that selects a label is the number that `log_likelihood` gives for it."""
    lm, tokenizer = copy.deepcopy(tiny.lm), tiny.builder.tokenizer
    lm.lm_head.weight.data[[tokenizer.unk_token_id, tokenizer.convert_tokens_to_ids(IMAGE)]] = 0.0  # words only
    idm, sources, targets = UnifiedModel(lm, tiny.builder, tiny.vqgan).inverse_dynamics, scenes[:4], scenes[4:8]
    labels = annotate(idm, sources, targets)
    likelihoods = idm.log_likelihood(sources, targets, [label.action for label in labels])
    assert [label.score for label in labels] == pytest.approx(likelihoods.tolist(), abs=1e-4)
    assert [label.action for label in labels] == idm.predict(sources, targets)
