"""ROUGE, BLEU, exact match, embedding score and BERTScore."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU
from tiny_metrics import save_roberta

from visdyn.evaluation.metrics.bert_score import bert_score
from visdyn.evaluation.metrics.text_metrics import bleu, embedding_score, exact_match, rouge, text_metrics

PREDICTIONS = ["open the red drawer now", "put the cup on the table", "turn off the lamp", "pick up a knife"]
REFERENCES = ["open the blue drawer now", "put the cup on the table", "turn on the lamp", "put the knife down"]


class LengthEncoder:
    def embed_texts(self, texts):
        return np.array([[1.0, len(text)] for text in texts])


def test_rouge_stems_and_orders():
    assert rouge(["opening drawers"], ["open drawer"]).value == 1
    assert rouge(["b a"], ["a b"], "rouge1").value == 1
    assert rouge(["b a"], ["a b"], "rougeL").value == 0.5


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_bleu_is_sacrebleus_corpus_score(order):
    theirs = BLEU(lowercase=True, smooth_method="none", max_ngram_order=order).corpus_score(PREDICTIONS, [REFERENCES])
    metric = bleu(PREDICTIONS, REFERENCES)[order - 1]
    assert metric.value == pytest.approx(theirs.score / 100)
    assert 0 < metric.value < 1
    assert metric.low <= metric.value <= metric.high
    assert metric.n == 4


def test_bleu_penalises_brevity_and_is_not_smoothed():
    short = bleu(["open the drawer"], ["open the drawer with your left hand"])
    assert short[0].value == pytest.approx(np.exp(1 - 7 / 3))
    assert short[3].value == 0


@settings(max_examples=25, deadline=None)
@given(st.lists(st.text("ab .,'", max_size=12), min_size=1, max_size=5), st.integers(0, 99))
def test_every_metric_stays_in_range_and_self_match_is_best(texts, seed):
    for metric in text_metrics(texts, texts[::-1], seed, LengthEncoder()):
        assert -1e-9 <= metric.low <= metric.high <= 1 + 1e-9, metric
        assert metric.n == len(texts)
    assert exact_match(texts, texts).value == 1


def test_exact_match_ignores_case_spaces_and_the_final_stop():
    assert exact_match(["Open  the drawer.", "close it", ""], ["open the drawer", "close", " "]).value == pytest.approx(
        2 / 3
    )


def test_embedding_score_is_the_mean_cosine():
    expected = [(1 + 3 * 3) / 10, (1 + 1 * 3) / np.sqrt(2 * 10)]
    assert embedding_score(LengthEncoder(), ["abc", "a"], ["xyz", "xyz"]).value == pytest.approx(np.mean(expected))


def test_text_metrics_names():
    names = [metric.metric for metric in text_metrics(PREDICTIONS, REFERENCES, 0, LengthEncoder())]
    assert names == ["rouge1", "rougeL", "bleu1", "bleu2", "bleu3", "bleu", "exact", "embedding"]
    assert "embedding" not in [metric.metric for metric in text_metrics(PREDICTIONS, REFERENCES, 0)]


def test_unpaired_texts_are_refused():
    with pytest.raises(ValueError, match="2 predictions cannot be paired with 1 references"):
        bleu(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="no predictions"):
        exact_match([], [])


@pytest.fixture(scope="module")
def tiny_roberta(tmp_path_factory):
    words = sorted({word for text in PREDICTIONS + REFERENCES for word in text.split()})
    return save_roberta(tmp_path_factory.mktemp("roberta"), words)


def test_bert_score_of_a_local_model(tiny_roberta, tmp_path):
    same = bert_score(REFERENCES, REFERENCES, model=tiny_roberta, num_layers=2, rescale=False)
    other = bert_score(PREDICTIONS, REFERENCES, model=tiny_roberta, num_layers=2, rescale=False)
    assert same.value == pytest.approx(1, abs=1e-5)
    assert other.value < same.value
    baseline = tmp_path / "baseline.tsv"
    baseline.write_text("LAYER,P,R,F\n" + "".join(f"{layer},0.5,0.5,0.5\n" for layer in range(3)))
    scaled = bert_score(PREDICTIONS, REFERENCES, model=tiny_roberta, num_layers=2, baseline_path=baseline)
    assert scaled.value == pytest.approx((other.value - 0.5) / 0.5, abs=1e-5)
    empty = bert_score([""], ["open"], model=tiny_roberta, num_layers=2, baseline_path=baseline)
    assert empty.value == pytest.approx(-1)


def test_bert_score_says_what_is_missing(tiny_roberta, monkeypatch):
    with pytest.raises(ValueError, match="give baseline_path, or rescale=False"):
        bert_score(["a"], ["a"], model=tiny_roberta)
    monkeypatch.setitem(sys.modules, "bert_score", None)
    with pytest.raises(ImportError, match=r"visdyn\[bertscore\]"):
        bert_score(["a"], ["a"])
