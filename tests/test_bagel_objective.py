"""BAGEL's losses: every mixture, the consistency loss and its options, the running average."""

from __future__ import annotations

import pytest
import torch
from plain_losses import flow_loss, text_loss
from test_bagel_model import small_config, small_model
from toy_bagel import KEPT, MIXTURES, batch_of, gradients, mixture, pairs

from visdyn.models.bagel import Bagel, Dropout, pack_samples
from visdyn.models.bagel.transforms import transform
from visdyn.params.doundo import Consistency
from visdyn.training.bagel.mixture import KINDS
from visdyn.training.bagel.objective import BagelObjective, RunningAverage, global_mean
from visdyn.training.bagel.recipe import apply_adapter, trained_parameters
from visdyn.training.losses import predict_clean


@pytest.mark.parametrize("weights", MIXTURES, ids=lambda weights: "+".join(weights))
@pytest.mark.parametrize("dropout", [KEPT, Dropout(1.0, 1.0, 1.0)], ids=["kept", "all dropped"])
def test_every_mixture_trains_and_every_parameter_gets_a_gradient(weights, dropout):
    model = small_model()
    apply_adapter(model, "full")
    batch = batch_of(mixture(weights, dropout=dropout))
    objective = BagelObjective(model, consistency=Consistency(0.5))
    optimiser = torch.optim.AdamW(objective.parameters(), lr=2e-3, weight_decay=0.0)
    losses = []
    for _ in range(8):
        optimiser.zero_grad()
        outputs = objective(batch)
        outputs["loss"].backward()
        losses.append(float(outputs["loss"].detach()))
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
        optimiser.step()
    assert losses[-1] < 0.97 * losses[0]
    assert (float(outputs["mse"].detach()) > 0) == (set(weights) != {"understanding"})
    assert (float(outputs["ce"].detach()) > 0) == ("understanding" in weights)
    assert (float(outputs["consistency"].detach()) > 0) == ("undo" in weights)


@pytest.mark.parametrize("condition", ["gt", "generated"])
def test_gradients_come_in_one_order_whatever_a_batch_holds(condition):
    """DeepSpeed adds up gradients of several ranks by the order in which they come, not by name."""
    orders = {}
    for weights in MIXTURES:
        for dropout in (KEPT, Dropout(1.0, 1.0, 1.0)):
            model, order = small_model(), []
            apply_adapter(model, "full")
            for name, parameter in model.named_parameters():
                if parameter.requires_grad:
                    parameter.register_post_accumulate_grad_hook(lambda _, name=name, order=order: order.append(name))
            chained = condition == "generated"
            batch = batch_of(mixture(weights, 3, dropout=dropout, chained=chained))
            BagelObjective(model, consistency=Consistency(0.5, condition))(batch)["loss"].backward()
            orders.setdefault(tuple(order), []).append((weights, dropout))
    assert len(orders) == 1
    assert len(next(iter(orders))) == len(trained_parameters(model))


@pytest.mark.parametrize("kind", KINDS)
def test_the_idle_sample_changes_no_loss(kind):
    data, model = mixture({kind: 1.0}, 2), small_model()
    bare = pack_samples(
        [data[i].parts for i in (0, 1)],
        data.config,
        dropout_draws=[draw for i in (0, 1) for draw in data[i].dropout_draws],
        timestep_draws=[draw for i in (0, 1) for draw in data[i].timestep_draws],
    )
    batch = batch_of(data)
    assert len(batch.pack) > len(bare)
    rows = sum(h * w for _, (h, w) in batch.targets)
    options = {"noise": batch.noise[: len(bare.latent_index)], "posterior_noise": batch.posterior} if rows else {}
    with torch.no_grad():
        expected, parts = model(bare, **options), BagelObjective(model)(batch)
    zero = torch.tensor(0.0)
    torch.testing.assert_close(parts["mse"], flow_loss(expected) if rows else zero, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(parts["ce"], zero if rows else text_loss(expected), atol=1e-5, rtol=1e-5)


def test_the_loss_is_the_weighted_sum_of_its_parts():
    batch, model = batch_of(mixture(dict.fromkeys(KINDS, 1.0))), small_model()
    options = {"mse_weight": 2.0, "ce_weight": 0.25, "consistency": Consistency(0.5)}
    with torch.no_grad():
        parts = BagelObjective(model, **options)(batch)
        output = model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior)
    expected = 2 * parts["mse"] + 0.25 * parts["ce"] + 0.5 * parts["consistency"]
    torch.testing.assert_close(parts["loss"], expected)
    torch.testing.assert_close(parts["mse"], flow_loss(output))
    torch.testing.assert_close(parts["ce"], text_loss(output))
    with torch.no_grad():
        reweighted = BagelObjective(model, reweight_ce=True)(batch)
    torch.testing.assert_close(reweighted["ce"], text_loss(output, reweight=True))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_timesteps_follow_the_logit_normal_law_with_shift(shift, monkeypatch):
    batch, model, seen = batch_of(mixture({"edit": 1.0}, 2)), small_model(), []
    forward = Bagel.forward
    monkeypatch.setattr(Bagel, "forward", lambda *a, **k: seen.append(forward(*a, **k)) or seen[-1])
    with torch.no_grad():
        BagelObjective(model, timestep_shift=shift)(batch)
    data = mixture({"edit": 1.0}, 2)
    normal = torch.tensor([data[i].timestep_draws[0] for i in (0, 1)])
    t = 1 / (1 + torch.exp(-normal))
    expected = (shift * t / (1 + (shift - 1) * t)).float()
    torch.testing.assert_close(seen[0].timesteps[[0, 24]], expected)
    with pytest.raises(ValueError, match="must be positive"):
        BagelObjective(model, timestep_shift=0.0)


def undo_step(weight: float | None = 0.5, **options):
    """Return the outputs of one step on an edit and two undos, its model and its batch."""
    model = small_model()
    wanted = {"chained": options.get("condition") == "generated", "originals": options.get("space") == "pixel"}
    data = mixture({"edit": 1.0, "undo": 1.0}, 4, seed=1, **wanted)
    batch = batch_of(data)
    consistency = None if weight is None else Consistency(weight, **options)
    outputs = BagelObjective(model, consistency=consistency)(batch)
    if outputs["loss"].requires_grad:
        outputs["loss"].backward()
    return outputs, model, batch


@pytest.mark.parametrize("condition", ["gt", "generated"])
def test_consistency_of_weight_zero_is_measured_and_changes_nothing(condition):
    without, bare, _ = undo_step(None)
    zero, control, _ = undo_step(0.0, condition=condition)
    half, pulled, _ = undo_step(0.5, condition=condition)
    torch.testing.assert_close(zero["loss"], without["loss"], atol=0, rtol=0)
    assert not zero["consistency"].requires_grad
    torch.testing.assert_close(zero["consistency"], half["consistency"].detach())
    assert float(zero["consistency"]) > 0 == float(without["consistency"])
    bare, control, pulled = gradients(bare), gradients(control), gradients(pulled)
    assert bare.keys() == control.keys()
    assert all(torch.equal(bare[name], control[name]) for name in bare)
    assert not torch.allclose(bare["llm2vae.weight"], pulled["llm2vae.weight"])


def reverse_rows(batch) -> torch.Tensor:
    return torch.cat([torch.full((h * w,), is_undo) for is_undo, (h, w) in batch.targets])


def test_latent_consistency_is_the_t_weighted_velocity_error_of_the_undos():
    outputs, model, batch = undo_step()
    output = model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior)
    rows = reverse_rows(batch)
    assert 0 < rows.sum() < len(rows)
    error = (output.timesteps[:, None] * (output.velocity - output.noise + output.clean))[rows].abs().mean()
    torch.testing.assert_close(outputs["consistency"], error, atol=1e-5, rtol=1e-5)


def test_gate_and_weight_function_act_on_the_undos_time():
    _, model, batch = undo_step()
    output = model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior)
    rows = reverse_rows(batch)
    times = output.timesteps[rows].view(-1, 24)[:, 0]
    each = (output.timesteps[:, None] * (output.velocity - output.noise + output.clean))[rows].abs().view(-1, 24 * 16)
    gate = float(times.min()) + 1e-4
    assert len(times) >= 2
    assert (times < gate).sum() == 1
    torch.testing.assert_close(undo_step(t_gate=gate)[0]["consistency"], each.mean(1)[times.argmin()])
    assert float(undo_step(t_gate=1e-6)[0]["consistency"]) == 0
    weighted = undo_step(weight_function="one_minus_t")[0]["consistency"]
    torch.testing.assert_close(weighted, ((1 - times) * each.mean(1)).mean())


@pytest.mark.parametrize("condition", ["gt", "generated"])
def test_pixel_consistency_compares_the_decoded_prediction_with_the_image_itself(condition):
    """Eq. 1 says I_o: what the autoencoder loses of it counts as well."""
    outputs, model, batch = undo_step(space="pixel", condition=condition)
    assert len(batch.originals) == sum(is_undo for is_undo, _ in batch.targets)
    if condition == "generated":
        assert outputs["consistency"].isfinite()
        return
    output = model(batch.pack, noise=batch.noise, posterior_noise=batch.posterior)
    estimate = predict_clean(output.noised, output.velocity, output.timesteps)
    # The mixture's pairs by number: an undo ends at the start of its pair.
    data, limits = mixture({"edit": 1.0, "undo": 1.0}, 4, seed=1), small_config().transforms["vae"]
    images = [
        transform(pairs()[row].start, limits) for kind, row in zip(data.kinds, data.rows, strict=True) if kind == 1
    ]
    losses = []
    for (is_undo, _), tokens in zip(batch.targets, estimate.split(24), strict=True):
        latents = tokens.view(4, 6, 2, 2, 4).permute(4, 0, 2, 1, 3).reshape(1, 4, 8, 12)
        if is_undo:
            losses.append((model.vae.decode(latents)[0] - images[len(losses)]).abs().mean())
    assert len(losses) == len(images) >= 2
    torch.testing.assert_close(outputs["consistency"], torch.stack(losses).mean(), atol=1e-5, rtol=1e-4)
    assert gradients(model)["llm2vae.weight"].isfinite().all()


@pytest.mark.parametrize("detach", [True, False])
def test_generated_condition_undoes_what_the_model_did(detach, monkeypatch):
    calls, forward = [], Bagel.forward

    def recording(self, pack, **options):
        calls.append((pack, options, forward(self, pack, **options)))
        return calls[-1][2]

    monkeypatch.setattr(Bagel, "forward", recording)
    outputs, _, batch = undo_step(condition="generated", detach=detach)
    (_, _, whole), (edits, _, done), (undo, options, undone) = calls
    count = sum(is_undo for is_undo, _ in batch.targets)
    assert len(edits.latent_shapes) == len(undo.latent_shapes) == 2 * count
    assert undo.vit_lengths == []
    ends = predict_clean(done.noised, done.velocity, done.timesteps)
    sources = options["latents"][::2]
    tokens = sources.view(count, 4, 4, 2, 6, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16)
    torch.testing.assert_close(tokens, ends)
    assert options["latents"].requires_grad is not detach
    rows = reverse_rows(batch)
    for name in ("noised", "clean", "timesteps"):
        torch.testing.assert_close(getattr(undone, name), getattr(whole, name)[rows])
    error = (undone.timesteps[:, None] * (undone.velocity - undone.noise + undone.clean)).abs().mean()
    torch.testing.assert_close(outputs["consistency"], error, atol=1e-5, rtol=1e-5)


def test_generated_condition_without_its_edits_is_refused():
    batch = batch_of(mixture({"undo": 1.0}, 1))
    with pytest.raises(ValueError, match="set BagelMixture's chained"):
        BagelObjective(small_model(), consistency=Consistency(0.5, "generated"))(batch)


def test_pixel_consistency_without_the_images_is_refused():
    with pytest.raises(ValueError, match="set BagelMixture's originals"):
        BagelObjective(small_model(), consistency=Consistency(0.5, space="pixel"))(batch_of(mixture({"undo": 1.0}, 1)))


def test_means_are_over_all_ranks(monkeypatch):
    """Two ranks with 1 and 3 tokens: the ranks' mean of what each returns is the mean over the 4."""
    totals, counts = torch.tensor([2.0, 9.0]), [1, 3]

    def all_reduce(tensor):
        tensor.fill_(float(sum(counts)))

    assert float(global_mean(totals[1], 3)) == 3
    assert float(global_mean(torch.tensor(0.0), 0)) == 0
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    means = [float(global_mean(total, count)) for total, count in zip(totals, counts, strict=True)]
    assert sum(means) / 2 == pytest.approx(11 / 4)


def test_activation_checkpointing_changes_no_gradient():
    batch, found = batch_of(mixture(dict.fromkeys(KINDS, 1.0))), []
    for checkpointed in (False, True):
        model = small_model()
        objective = BagelObjective(model)
        if checkpointed:
            objective.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": False})
            assert model.language_model.model.gradient_checkpointing
        objective(batch)["loss"].backward()
        found.append(gradients(model))
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_running_average_follows_optimiser_steps_and_travels_with_the_state():
    value, average = torch.nn.Parameter(torch.ones(1, dtype=torch.bfloat16)), RunningAverage(0.9, forwards_per_step=2)
    for forward in range(4):
        if forward == 2:
            value.data.fill_(2.0)
        average.before_forward(iter([("w", value)]))
    torch.testing.assert_close(average.values["w"], torch.tensor([1.1]))
    model = small_model()
    apply_adapter(model, "generation_expert")
    kept = BagelObjective(model, average=RunningAverage(0.5)).train()
    kept(batch_of(mixture({"edit": 1.0}, 1)))
    state = kept.state_dict()
    names = {f"model.{name}" for name in trained_parameters(model)}
    assert {name for name in state if name.startswith("model.")} == names
    again = BagelObjective(small_model(), average=RunningAverage(0.5))
    apply_adapter(again.model, "generation_expert")
    again.load_state_dict(state)
    assert again.average.forwards == 1
    assert all(torch.equal(again.average.values[name], kept.average.values[name]) for name in kept.average.values)
    state.pop("model.llm2vae.bias")
    with pytest.raises(RuntimeError, match=r"Missing key.*llm2vae\.bias"):
        again.load_state_dict(state)
    with pytest.raises(ValueError, match="between 0 and 1"):
        RunningAverage(1.0)
