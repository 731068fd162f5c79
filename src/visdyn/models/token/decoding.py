"""What decoding draws from, and constrained decoding of text (`visdyn.models.token.image_decoder` has images)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from transformers import DynamicCache

from visdyn.models.token.slot_cache import SlotCache
from visdyn.models.token.tokens import TokenLayout

CHECK_EVERY = 8  # tokens of a text on a GPU before it is asked whether all texts have ended


def draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution: probabilities (B, V), uniforms (B,) in [0, 1) -> int64 (B,).

    One uniform number per token, drawn beforehand, makes a sample independent of what else is in its batch.
    """
    cumulative = probabilities.cumsum(-1, dtype=torch.float64)  # (B, V)
    # Scaled by the row's own sum: rounding leaves it near 1, and no number may fall beyond the last token.
    positions = torch.searchsorted(cumulative, uniforms.double()[:, None] * cumulative[:, -1:], right=True)
    return positions.squeeze(1).clamp_max(probabilities.shape[-1] - 1)


def token_probabilities(logits: torch.Tensor, temperature: float, top_p: float) -> torch.Tensor:
    """Return float32 (B, V): softmax at `temperature` (0 is greedy), cut to the nucleus `top_p` and renormalised.

    Raises:
        ValueError: a negative temperature, or a `top_p` that is not positive.
    """
    if temperature < 0 or top_p <= 0:
        raise ValueError(f"sampling needs temperature >= 0 and top_p > 0, not {temperature} and {top_p}")
    if temperature == 0:
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    scaled = logits if temperature == 1 else logits.float() / temperature
    probabilities = torch.softmax(scaled, -1, dtype=torch.float32)
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    # A token stays while the mass before it is under top_p, so the most probable one always does.
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(probabilities).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def uniforms(num_samples: int, num_tokens: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draw float64 (num_samples, num_tokens) in [0, 1) on the CPU, so that a seed means the same on every device."""
    return torch.rand(num_samples, num_tokens, generator=generator, dtype=torch.float64)


def require_finite_states(hidden: torch.Tensor) -> None:
    """Refuse samples of a model whose states are no numbers; once they are not, those of all later tokens are not.

    Raises:
        ValueError: a state holds NaN or infinity.
    """
    if not torch.isfinite(hidden).all():
        raise ValueError(
            "the model's states are no numbers (NaN or infinity), so nothing can be sampled from them; load it in "
            "another precision (float32, or bfloat16 instead of float16)"
        )


@torch.inference_mode()
def generate_text(
    lm,
    layout: TokenLayout,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int = 16,
    batch_size: int = 64,
    temperature: float = 0.0,
    draws: torch.Tensor | None = None,
) -> tuple[list[list[int]], torch.Tensor]:
    """Decode text after each prompt, greedily or by sampling, with image and control tokens excluded, until eos.

    Args:
        temperature: 0 is greedy; otherwise of the softmax that is sampled.
        draws: uniform numbers (N, max_new_tokens) in [0, 1), needed to sample.

    Returns:
        The token ids without eos, and float32 (N,): the mean log-probability per generated token (eos left out), under
        the whole vocabulary, as `score_completions` gives it; 0 for an empty text.
    """
    if temperature > 0 and draws is None:
        raise ValueError("sampling text needs draws, one uniform number for each token")
    texts: list[list[int]] = [[] for _ in prompts]
    scores = torch.zeros(len(prompts))
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        part = None if draws is None else draws[rows]
        written = _decode_text(lm, layout, [prompts[row] for row in rows], max_new_tokens, temperature, part)
        for row, ids, score in zip(rows, *written, strict=True):
            texts[row], scores[row] = ids, score
    return texts, scores


def _decode_text(
    lm,
    layout: TokenLayout,
    prompts: list,
    max_new_tokens: int,
    temperature: float,
    draws: torch.Tensor | None,
    staged: bool | None = None,
) -> tuple[list[list[int]], list[float]]:
    """Decode one batch; `staged`, the way of a GPU: tokens of one shape, and the texts' ends asked for now and then."""
    device = next(lm.parameters()).device
    lm = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
    staged = device.type == "cuda" if staged is None else staged
    longest, shortest = (find(len(prompt) for prompt in prompts) for find in (max, min))  # P
    # Right-padded, (B, P): no token of a prompt sees what follows, and what is written hides the padding by a mask.
    ids = torch.tensor([[*prompt, *[layout.pad] * (longest - len(prompt))] for prompt in prompts]).to(device)
    lengths = torch.tensor([len(prompt) for prompt in prompts]).to(device)  # (B,)
    output = lm.model(input_ids=ids, past_key_values=DynamicCache(config=lm.config), use_cache=True)
    hidden = output.last_hidden_state[torch.arange(len(prompts), device=device), lengths - 1]  # (B, D)
    cache = SlotCache(longest, 1, max_new_tokens)
    cache.fill(output.past_key_values, None if shortest == longest else lengths)
    head = lm.lm_head.weight
    forbidden = torch.zeros(len(head), dtype=torch.bool, device=device)
    forbidden[layout.image_offset : layout.image_offset + layout.num_image_codes] = True
    forbidden[[layout.bos, layout.pad, layout.begin_of_image, layout.end_of_image, layout.end_of_turn]] = True
    written = torch.full((len(prompts), max_new_tokens), layout.eos, device=device)
    sums = torch.zeros(len(prompts), device=device)
    finished = torch.zeros(len(prompts), dtype=torch.bool, device=device)
    numbers = None if draws is None else draws.to(device)
    for position in range(max_new_tokens):
        if position > 0:
            place = torch.full((1, 1), position - 1, device=device)
            mask = cache.aim(place, max_new_tokens if staged else position, hidden.dtype, exact=not staged)
            output = lm.model(
                input_ids=written[:, position - 1 : position],
                attention_mask=mask,
                position_ids=lengths[:, None] + position - 1,
                past_key_values=cache,
                use_cache=True,
            )
            hidden = output.last_hidden_state[:, -1]
        # (B, V), normalised before images and controls are excluded: scores are under the whole vocabulary
        log_probabilities = F.linear(hidden, head).float().log_softmax(-1).masked_fill(forbidden, -torch.inf)
        if temperature > 0:
            token = draw(token_probabilities(log_probabilities, temperature, 1.0), numbers[:, position])
            log_probability = log_probabilities.gather(1, token[:, None])[:, 0]
        else:
            log_probability, token = log_probabilities.max(-1)
        finished = finished | (token == layout.eos)
        sums += torch.where(finished, 0, log_probability)
        written[:, position] = torch.where(finished, layout.eos, token)
        if (position + 1) % (CHECK_EVERY if staged else 1) == 0 and finished.all():
            break
    ended = written == layout.eos
    counts = torch.where(ended.any(1), ended.long().argmax(1), max_new_tokens)
    texts = [row[:count] for row, count in zip(written.tolist(), counts.tolist(), strict=True)]
    # States that are no numbers once are none from then on: such a text has no score, also where it is empty.
    scores = (sums / counts.clamp_min(1)).masked_fill(~torch.isfinite(hidden).all(-1), torch.nan)
    return texts, scores.tolist()
