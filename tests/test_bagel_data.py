"""BAGEL's training data: draws that depend on seed and number alone, mixtures, batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_bagel_model import picture, small_config
from toy_bagel import batch_of, encode, mixture, pairs

from visdyn.models.bagel import edit_sample
from visdyn.models.bagel.samples import VAE
from visdyn.training.bagel.mixture import DROPOUT, KINDS, BagelMixture
from visdyn.trajectory import ReversiblePair, Trajectory


def test_an_item_is_a_pure_function_of_seed_and_number():
    data, again, other = (mixture(dict.fromkeys(KINDS, 1.0), 12, seed=seed) for seed in (3, 3, 4))
    for index in (7, 0, 7):
        first, second = data[index], again[index]
        assert (first.kind, first.dropout_draws, first.timestep_draws) == (
            second.kind,
            second.dropout_draws,
            second.timestep_draws,
        )
        assert all(torch.equal(a, b) for a, b in zip(first.noise, second.noise, strict=True))
    assert data.kinds.tolist() != other.kinds.tolist()
    draws = [tuple(data[i].dropout_draws) for i in range(12) if data[i].dropout_draws]
    assert len(set(draws)) == len(draws)


def test_kinds_come_by_weight_and_records_each_once_before_any_again():
    data = mixture({"edit": 3.0, "undo": 1.0}, 4000)
    assert np.bincount(data.kinds, minlength=4)[2:].sum() == 0
    assert (data.kinds == 0).mean() == pytest.approx(0.75, abs=0.03)
    rows = data.rows[data.kinds == 0]
    assert all(sorted(rows[i : i + 3]) == [0, 1, 2] for i in range(0, 30, 3))


def test_edit_and_undo_are_the_two_directions_of_a_pair():
    edit, undo = mixture({"edit": 1.0}, 1), mixture({"undo": 1.0}, 1)
    done, undone = edit[0].parts, undo[0].parts
    pair = pairs()[edit.rows[0]]
    expected = edit_sample([pair.start, pair.end], [encode(pair.forward_prompt)], small_config())
    assert [part.kind for part in done] == ["vae", "vit", "text", "vae"]
    assert all(torch.equal(a.content, b.content) for a, b in zip(done, expected, strict=True) if a.kind != "text")
    assert done[2].content == encode("open it it")
    assert undone[2].content == encode("close it it")
    pair = pairs()[undo.rows[0]]
    assert torch.equal(undone[0].content, edit_sample([pair.end, pair.start], [[5]], small_config())[0].content)
    assert mixture({"undo": 1.0}, 1, long_share=0.0)[0].parts[2].content == encode("close it")


def test_dropout_is_independent_and_noise_follows_its_image():
    data = mixture({"edit": 1.0}, 300, dropout=DROPOUT)
    drops = np.array([data[i].dropout_draws for i in range(300)]) < [DROPOUT.vae, DROPOUT.vit, DROPOUT.text]
    assert drops.mean(0) == pytest.approx([0.3, 0.3, 0.1], abs=0.07)
    assert (drops[:, 0] & drops[:, 1]).mean() == pytest.approx(0.09, abs=0.05)
    without = next(i for i in range(300) if drops[i, 0])
    with_source = next(i for i in range(300) if not drops[i, 0])
    batch = batch_of(data, without, with_source)
    dropped, kept = data[without], data[with_source]
    assert torch.equal(batch.noise, torch.cat([dropped.noise[1], *kept.noise]))
    assert torch.equal(batch.posterior, torch.stack([dropped.posterior[1], *kept.posterior]))


def test_a_trajectory_is_an_edit_without_a_reverse():
    records = {"edit": [Trajectory(picture(24, 16), "open it", picture(24, 16, 1), "s", "1")]}
    assert BagelMixture(records, {"edit": 1}, encode, small_config(), 1)[0].parts[2].content == encode("open it")
    with pytest.raises(ValueError, match="no reverse prompt"):
        BagelMixture({"undo": records["edit"]}, {"undo": 1}, encode, small_config(), 1)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ({"edits": 1.0}, r"unknown kind\(s\) of training sample \['edits'\]"),
        ({"edit": 0.0}, "one must be positive"),
        ({"edit": -1.0}, "must not be negative"),
    ],
)
def test_wrong_mixtures_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        mixture(weights)


def test_mixtures_without_their_records_or_prompts_are_refused():
    with pytest.raises(ValueError, match="asks for understanding but has no such records"):
        BagelMixture({"edit": pairs()}, {"edit": 1, "understanding": 1}, encode, small_config(), 1)
    bare = [ReversiblePair(*[picture(24, 16)] * 2, "open it", "close it", "open it", "", "open it", "o", "i", "p7")]
    with pytest.raises(ValueError, match="pair p7 has no reverse_short"):
        BagelMixture({"undo": bare}, {"undo": 1}, encode, small_config(), 1, long_share=0.5)


def test_targets_of_a_batch_are_the_packs_noised_images_in_order():
    data = mixture(dict.fromkeys(KINDS, 1.0), 8)
    batch, kinds = batch_of(data), [data[i].kind for i in range(8)]
    assert sum(h * w for _, (h, w) in batch.targets) == len(batch.pack.mse_index)
    assert [is_undo for is_undo, _ in batch.targets] == [kind == "undo" for kind in kinds if kind != "understanding"]
    assert len(batch.noise) == len(batch.pack.latent_index)
    images = [part.content for i in range(8) for part in data[i].parts if part.kind == VAE]
    assert len(batch.pack.images) == len(batch.posterior) == len(images)
