"""What a reader asks of models about one item: samples side by side, K candidates, token maps, what the IDM thinks.

Every answer comes from the kit's own functions, called as the stages call them; `snippets.py` writes the same calls
out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F

from visdyn.compute.seeds import item_seed
from visdyn.evaluation.metrics.region_judge import Judgement, NoChangeError, judge
from visdyn.explorer.opened import EDITOR, Opened
from visdyn.images import ImageRef, load
from visdyn.inference.generation import generate
from visdyn.inference.verification import choose_best, score_candidates
from visdyn.models.token.unified import TokenForwardDynamics, TokenInverseDynamics, UnifiedModel
from visdyn.stages.evaluation.galleries import spread_rows
from visdyn.training.losses import recognition_weights
from visdyn.trajectory import Trajectory

CHANGED, WEIGHT, LIKELIHOOD, DIFFERENCE = "changed", "weight", "likelihood", "difference"
MAPS = {
    CHANGED: "codes changed",
    WEIGHT: "recognition weight (Eq. 2)",
    LIKELIHOOD: "log-likelihood of each token",
    DIFFERENCE: "log-likelihood difference",
}
_COMPARED = 64  # images that tell what is usual
_SURE = 0.5  # below this probability of its own answer an IDM is called unsure


@dataclass(frozen=True)
class Drawn:
    """An image that an arm made, uint8 (H, W, 3), and what the region judge says; None without a known true image."""

    image: np.ndarray
    judgement: Judgement | None


def true_image(opened: Opened, item: Trajectory, action: str) -> ImageRef | None:
    """Return the true image after an action: the item's own target, or the kitchen's rendering of another valid one."""
    if action == item.action:
        return item.target
    return opened.reachable(item).get(action)


def judge_image(opened: Opened, item: Trajectory, action: str, image: np.ndarray) -> Judgement | None:
    """Judge an image as stage `evaluation` does; None where the true image is unknown, or shows no change."""
    target = true_image(opened, item, action)
    if target is None:
        return None
    try:
        return judge(item.source, image, target, list(opened.reachable(item).values()))
    except NoChangeError:
        return None


def draw_arms(opened: Opened, names: Sequence[str], item: Trajectory, action: str, seed: int = 0) -> dict[str, Drawn]:
    """Draw one image of each arm for an item, all with the noise of one seed.

    Args:
        seed: number of the draw; 0 has the noise of the images in the tables.

    Raises:
        KeyError: an arm that the profile has not.
    """
    steered, number = replace(item, action=action), opened.seed_of("images", seed)
    drawn = {}
    for name in names:
        if opened.arms[name].kind == EDITOR:
            noise = item_seed(number, item.subset, item.id)
            image = opened.editor(name).edit([item.source], [action], [noise])[0]
        else:
            image = generate(opened.forward_model(name), [steered], 1, number)[0][0, 0]
        drawn[name] = Drawn(image, judge_image(opened, item, action, image))
    return drawn


@dataclass(frozen=True)
class Ranked:
    """K candidates of one item.

    Attributes:
        images: uint8 (H, W, 3) each, in the order in which they were drawn.
        table: columns candidate, idm, likelihood (mean log-likelihoods in nats a token: of the action by the IDM, of
            the image by the arm), judge (0 to 10), success (the true state is the nearest), picked (the IDM's choice);
            sorted by one of them, the largest first. Unknown numbers are NaN.
    """

    images: list[np.ndarray]
    table: pd.DataFrame


SORTS = {"idm": "IDM", "likelihood": "own likelihood", "judge": "judge"}


def draw_candidates(
    opened: Opened, name: str, item: Trajectory, action: str, k: int, seed: int = 0, sort: str = "idm"
) -> Ranked:
    """Draw K candidates of an arm as stage `verification` does, and say what IDM, arm and judge think of each.

    Raises:
        ValueError: an unknown order, k below 1, or an arm that is an image editor.
    """
    if sort not in SORTS:
        raise ValueError(f"unknown order {sort!r}; one of {', '.join(SORTS)}")
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    models, steered = opened.dynamics(name), replace(item, action=action)
    scored = score_candidates(*models, [steered], k, opened.seed_of("candidates", seed))
    images = list(scored.images[0])
    verdicts = [judge_image(opened, item, action, image) for image in images]
    table = pd.DataFrame({
        "candidate": range(k), "idm": scored.inverse[0], "likelihood": scored.forward[0],
        "judge": [np.nan if one is None else one.score for one in verdicts],
        "success": [np.nan if one is None else float(one.success) for one in verdicts],
        "picked": np.arange(k) == choose_best(scored.inverse[0]),
    })  # fmt: skip
    return Ranked(images, table.sort_values(sort, ascending=False, kind="stable").reset_index(drop=True))


@dataclass(frozen=True)
class TokenMap:
    """One number for each image token: float (h, w), what it is, whether it diverges around 0, and a sentence on it."""

    values: np.ndarray
    title: str
    diverging: bool
    said: str


def map_tokens(
    opened: Opened,
    kind: str,
    name: str,
    item: Trajectory,
    action: str,
    image: ImageRef,
    other: str = "",
    floor: float = 0.0,
) -> TokenMap:
    """Map a number of each image token of `image`, which stands after the item's source.

    Args:
        kind: one of `MAPS`.
        name: the arm whose tokens they are.
        other: of `difference`, the arm whose log-likelihood is taken off, or another action of the same arm.
        floor: of the recognition weights.

    Raises:
        ValueError: an unknown kind, or an arm without image tokens.
    """
    if kind not in MAPS:
        raise ValueError(f"unknown map {kind!r}; one of {', '.join(MAPS)}")
    forward = token_model(opened, name)
    model, label = forward.model, opened.arms[name].label
    if kind == WEIGHT:
        pixels = (model.pixels([one]).to(model.vqgan.device) for one in (item.source, image))
        before, after = (model.vqgan.features(one).detach() for one in pixels)  # (1, C, h, w)
        weights = recognition_weights(before, after, floor).reshape(before.shape[2:]).cpu().numpy()  # (h, w)
        top = np.sort(weights.ravel())[::-1].cumsum() / weights.sum()
        tenth = top[max(len(top) // 10 - 1, 0)]
        return TokenMap(weights, MAPS[kind], False, f"a tenth of the tokens has {tenth:.0%} of the weight; mean 1")
    if kind == CHANGED:
        before, after = model.encode([item.source]), model.encode([image])
        changed = (before != after)[0].astype(float)
        return TokenMap(changed, MAPS[kind], False, f"{int(changed.sum())} of {changed.size} codes differ")
    values = token_log_likelihoods(model, item.source, action, image)
    if kind == LIKELIHOOD:
        return TokenMap(values, MAPS[kind], False, f"{label}: {values.mean():.3f} nats a token")
    rival, words = (token_model(opened, other).model, action) if other in opened.arms else (model, other)
    if not words:
        raise ValueError("name the other arm, or another action, whose log-likelihood is taken off")
    difference = values - token_log_likelihoods(rival, item.source, words, image)
    minus = opened.arms[other].label if other in opened.arms else f"{label}, {other!r}"
    said = f"{label} minus {minus}: {difference.mean():+.3f} nats a token, {difference.sum():+.1f} in all"
    return TokenMap(difference, MAPS[kind], True, said)


def token_model(opened: Opened, name: str) -> TokenForwardDynamics:
    """Load an arm that has image tokens.

    Raises:
        ValueError: it has none.
    """
    forward = opened.forward_model(name)
    if not isinstance(forward, TokenForwardDynamics):
        raise ValueError(f"{opened.arms[name].label} has no image tokens to map")
    return forward


@torch.inference_mode()
def token_log_likelihoods(model: UnifiedModel, source: ImageRef, action: str, image: ImageRef) -> np.ndarray:
    """Return log p(o_t^(l) | o_t^(<l), o_s, a) of every image token, float64 (h, w), in nats.

    Renormalised over the image vocabulary: their mean is what `ForwardDynamics.log_likelihood` returns.
    """
    before, after = model.encode([source])[0], model.encode([image])[0]  # (h, w)
    sequence, layout = model.builder.forward(before, action, after), model.layout
    device = next(model.lm.parameters()).device
    ids = torch.as_tensor(np.concatenate([sequence.prompt, sequence.completion]), device=device)[None]  # (1, T)
    lm = model.lm.get_base_model() if hasattr(model.lm, "get_base_model") else model.lm
    states = lm.model(input_ids=ids, use_cache=False).last_hidden_state[0]  # (T, D)
    first = len(sequence.prompt) + 1  # after begin-of-image
    head = lm.lm_head.weight[layout.image_offset : layout.image_offset + layout.num_image_codes]
    logits = F.linear(states[first - 1 : first - 1 + after.size], head).double()  # (h * w, codes)
    codes = torch.as_tensor(after.reshape(-1, 1), device=device)
    return logits.log_softmax(-1).gather(1, codes)[:, 0].reshape(after.shape).cpu().numpy()


@dataclass(frozen=True)
class Belief:
    """What an IDM thinks happened between two images.

    Attributes:
        predicted: its own words, decoded greedily.
        probability: of those words, tokens multiplied; NaN where the model gives only means.
        ranking: columns action, log_likelihood (mean, nats a token: what verification goes by), probability (of all its
            tokens), share (of the listed actions' probability); the most probable first.
        listed: probability of all listed actions together; NaN as above.
        warnings: sentences on why this should not be believed; empty where there is no reason.
    """

    predicted: str
    probability: float
    ranking: pd.DataFrame
    listed: float
    warnings: tuple[str, ...]


def ask_inverse(opened: Opened, item: Trajectory, image: ImageRef, actions: Sequence[str] | None = None) -> Belief:
    """Ask the IDM what was done between the item's source and an image, and how sure it is.

    Args:
        actions: that it is asked about; None takes `Opened.asked_actions`.
    """
    idm = opened.inverse_model()
    predicted = idm.predict([item.source], [image])[0]
    listed = list(dict.fromkeys([*(opened.asked_actions(item) if actions is None else actions)]))
    asked = list(dict.fromkeys([*listed, predicted] if predicted.strip() else listed))
    pairs = [item.source] * len(asked), [image] * len(asked)
    if isinstance(idm, TokenInverseDynamics):
        scores = _score_actions(idm, item.source, image, asked)
        means, totals = scores.mean.numpy(), scores.total.double().exp().numpy()
    else:
        means, totals = idm.log_likelihood(*pairs, asked).cpu().numpy(), np.full(len(asked), np.nan)
    table = pd.DataFrame({"action": asked, "log_likelihood": means, "probability": totals})
    own = table[table["action"] == predicted]["probability"]
    probability = float(own.iloc[0]) if len(own) else float("nan")
    table["share"] = table["probability"] / table["probability"].sum()
    by = "probability" if table["probability"].notna().all() else "log_likelihood"
    table = table.sort_values(by, ascending=False, kind="stable").reset_index(drop=True)
    known = table[table["action"].isin(listed)]["probability"]
    mass = float(known.sum()) if known.notna().all() else float("nan")
    warnings = _find_doubts(opened, idm, item, image, probability, mass)
    return Belief(predicted, probability, table, mass, tuple(warnings))


def _score_actions(idm: TokenInverseDynamics, source: ImageRef, image: ImageRef, actions: Sequence[str]):
    """Score actions between two images, each of which is encoded once."""
    codes = idm.model.encode([source, image])  # (2, h, w)
    repeated = (np.repeat(codes[place][None], len(actions), axis=0) for place in (0, 1))
    return idm.score_codes(*repeated, actions)


def _find_doubts(opened: Opened, idm, item: Trajectory, image: ImageRef, probability: float, mass: float) -> list[str]:
    doubts = []
    if isinstance(idm, TokenInverseDynamics):
        for name, one in (("the image before", item.source), ("the image after", image)):
            error, usual = tokenizer_error(idm.model, one), usual_errors(opened, idm.model)
            if len(usual) and error > usual.max():
                doubts.append(
                    f"{name} is outside this model's world: its tokenizer misses it by {error:.3f}, and none of "
                    f"{len(usual)} test images by more than {usual.max():.3f}"
                )
    if mass < _SURE:
        doubts.append(f"the listed actions have {mass:.0%} of the probability: it would rather say something else")
    if probability < _SURE:
        doubts.append(f"it is not sure: its own answer has a probability of {probability:.0%}")
    return doubts


def tokenizer_error(model: UnifiedModel, image: ImageRef) -> float:
    """Return how far an image, as the model crops it, is from its tokens: mean absolute difference in [0, 1]."""
    return float(np.abs(model.decode(model.encode([image]))[0] / 255.0 - model.square(image) / 255.0).mean())


def usual_errors(opened: Opened, model: UnifiedModel) -> np.ndarray:
    """Return `tokenizer_error` of up to 64 test images spread over the test set, float (N,); counted once."""
    key = ("usual", model.name)
    images = [opened.items[place].source for place in spread_rows(len(opened.items), _COMPARED)]
    return opened.shelf.take(key, lambda: np.array([tokenizer_error(model, image) for image in images]), 0)


@dataclass
class Walk:
    """Actions done one after the other, each on the image that the last one made; any step can be taken back.

    The seeds are those of `inference.rollout.roll_out`: the images are the ones that it makes of the same actions.

    Attributes:
        opened: the profile.
        source: the first image.
        seed: of the noise.
        steps: (action, arm, image) so far.
        undone: steps that were taken back, the last one first.
    """

    opened: Opened
    source: ImageRef
    seed: int = 0
    steps: list[tuple[str, str, np.ndarray]] = field(default_factory=list)
    undone: list[tuple[str, str, np.ndarray]] = field(default_factory=list)

    @property
    def image(self) -> np.ndarray:
        """The image after the last step: uint8 (H, W, 3)."""
        return self.steps[-1][2] if self.steps else np.asarray(load(self.source))

    def do(self, action: str, name: str) -> np.ndarray:
        """Perform an action on the last image with an arm; what was taken back before is forgotten.

        Raises:
            ValueError: the action is empty.
        """
        place = len(self.steps)
        before = self.image if self.steps else self.source
        if self.opened.arms[name].kind == EDITOR:
            seed = item_seed(self.seed, "rollout", f"0-{place}")
            image = self.opened.editor(name).edit([before], [action], [seed])[0]
        else:
            item = Trajectory(before, action, before, "rollout", f"0-{place}")
            image = generate(self.opened.forward_model(name), [item], 1, self.seed)[0][0, 0]
        self.steps.append((action, name, image))
        self.undone.clear()
        return image

    def undo(self, name: str, action: str = "") -> np.ndarray:
        """Let an arm undo the last action by its inverse, or by the words given: a further step of the walk.

        Raises:
            ValueError: there is no step, or no inverse of its action is known.
        """
        if not self.steps:
            raise ValueError("nothing was done yet that could be undone")
        words = action or self.opened.undoing(self.steps[-1][0])
        if not words:
            raise ValueError(f"what undoes {self.steps[-1][0]!r} is not known here; write the action that does")
        return self.do(words, name)

    def back(self) -> None:
        """Take the last step back, without a model."""
        if self.steps:
            self.undone.append(self.steps.pop())

    def again(self) -> None:
        """Bring back the step that was taken back last."""
        if self.undone:
            self.steps.append(self.undone.pop())


def images_of(opened: Opened, name: str, items: Sequence[Trajectory]) -> dict[tuple[str, str], ImageRef]:
    """Return an arm's images of items as the tables scored them, by subset and id: the kept files, else drawn again.

    Large models are not asked: what is not kept is then left out.
    """
    folder = opened.place.path("data/generated/outputs/aurora") / name
    kept = {(item.subset, item.id): folder / item.subset / f"{item.id}.png" for item in items}
    found: dict[tuple[str, str], ImageRef] = {key: path for key, path in kept.items() if path.is_file()}
    rest = [item for item in items if (item.subset, item.id) not in found]
    if rest and opened.is_small and opened.arms[name].kind != EDITOR:
        images, _ = generate(opened.forward_model(name), rest, 1, opened.seed_of("images", 0))
        found |= {(item.subset, item.id): image for item, image in zip(rest, images[:, 0], strict=True)}
    return found
