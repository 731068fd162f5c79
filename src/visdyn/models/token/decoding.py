"""Constrained decoding with a KV cache: images (exactly one grid of codes) and actions (text)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from visdyn.models.token.tokens import TokenLayout


def draw(probabilities: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """Invert the cumulative distribution: probabilities (B, V), uniforms (B,) in [0, 1) -> int64 (B,).

    One uniform number per token, drawn beforehand, makes a sample independent of what else is in its batch.
    """
    cumulative = probabilities.double().cumsum(-1)  # (B, V)
    # Scaled by the row's own sum: rounding leaves it near 1, and no number may fall beyond the last token.
    positions = torch.searchsorted(cumulative, (uniforms.double() * cumulative[:, -1])[:, None], right=True)
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
    probabilities = torch.softmax(logits.float() / temperature, -1)
    if top_p >= 1:
        return probabilities
    ordered, order = probabilities.sort(-1, descending=True)
    # A token stays while the mass before it is under top_p, so the most probable one always does.
    kept = ordered * (ordered.cumsum(-1) - ordered < top_p)
    return torch.zeros_like(probabilities).scatter(-1, order, kept / kept.sum(-1, keepdim=True))


def uniforms(num_samples: int, num_tokens: int, generator: torch.Generator | None) -> torch.Tensor:
    """Draw float64 (num_samples, num_tokens) in [0, 1) on the CPU, so that a seed means the same on every device."""
    return torch.rand(num_samples, num_tokens, generator=generator, dtype=torch.float64)


class GrowingCache(DynamicCache):
    """A KV cache of fixed size: the prompt's keys and values for each of its samples, and slots for all new tokens.

    The library's own copies everything at every token: at 7B, 8 samples and 2,000 tokens as much memory traffic again
    as reading the weights.
    """

    def __init__(self, prefilled: DynamicCache, repeats: int, num_slots: int) -> None:
        super().__init__()
        self.states = [
            [allocate_slots(layer.keys, repeats, num_slots), allocate_slots(layer.values, repeats, num_slots)]
            for layer in prefilled.layers
        ]
        self.filled = prefilled.get_seq_length()

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        end = self.filled + key_states.shape[2]  # states are (B, H, S, D)
        for stored, new in zip(self.states[layer_idx], (key_states, value_states), strict=True):
            stored[:, :, self.filled : end] = new
        keys, values = self.states[layer_idx]
        if layer_idx == len(self.states) - 1:  # all layers of one pass write to the same slots
            self.filled = end
        return keys[:, :, :end], values[:, :, :end]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.filled

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.filled + query_length, 0


def allocate_slots(states: torch.Tensor, repeats: int, num_slots: int) -> torch.Tensor:
    """Return (B * repeats, H, num_slots, D) whose first slots are `states` (B, H, S, D), each row `repeats` times."""
    count, heads, filled, width = states.shape
    wide = states.new_zeros(count * repeats, heads, num_slots, width)
    wide[:, :, :filled] = states.repeat_interleave(repeats, 0)
    return wide


@torch.inference_mode()
def sample_images(
    lm,
    layout: TokenLayout,
    prompts: Sequence[Sequence[int]],
    draws: torch.Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 128,
) -> np.ndarray:
    """Sample K grids of image codes for each prompt; begin-of-image is forced, then only codes are allowed.

    The prompt is computed once and shared by its K samples. Prompts of one length form a batch, without padding.

    Args:
        prompts: N prompts (token ids) that end where the answer begins.
        draws: uniform numbers (N, K, L), L being the number of codes of an image.
        batch_size: samples decoded at a time.

    Returns:
        int64 (N, K, L) codes.
    """
    num_prompts, num_samples, length = draws.shape
    codes = np.zeros((num_prompts, num_samples, length), np.int64)
    by_length = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    step = max(1, batch_size // num_samples)
    for rows in by_length.values():
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            ids = torch.tensor([[*prompts[row], layout.begin_of_image] for row in part])
            codes[part] = _decode_codes(lm, layout, ids, draws[part], temperature, top_p)
    return codes


def _decode_codes(
    lm, layout: TokenLayout, ids: torch.Tensor, draws: torch.Tensor, temperature: float, top_p: float
) -> np.ndarray:
    """Decode codes (N, K, L) after prompts `ids` (N, S) of one length."""
    device = next(lm.parameters()).device
    count, num_samples, length = draws.shape
    # Only the head's rows of image codes are multiplied: constrained decoding without a logits processor.
    head = lm.lm_head.weight[layout.image_offset : layout.image_offset + layout.num_image_codes]  # (C, D)
    output = lm.model(input_ids=ids.to(device), past_key_values=DynamicCache(config=lm.config), use_cache=True)
    cache = GrowingCache(output.past_key_values, num_samples, ids.shape[1] + length)
    hidden = output.last_hidden_state[:, -1].repeat_interleave(num_samples, 0)  # (N * K, D)
    flat = draws.reshape(count * num_samples, length).to(device)  # (N * K, L)
    chosen = []
    for position in range(length):
        probabilities = token_probabilities(F.linear(hidden, head), temperature, top_p)  # (N * K, C)
        codes = draw(probabilities, flat[:, position])
        chosen.append(codes)
        if position + 1 < length:
            output = lm.model(input_ids=codes[:, None] + layout.image_offset, past_key_values=cache, use_cache=True)
            hidden = output.last_hidden_state[:, -1]
    require_finite_states(hidden)
    return torch.stack(chosen, 1).reshape(count, num_samples, length).cpu().numpy()


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
    lm, layout: TokenLayout, prompts: list, max_new_tokens: int, temperature: float, draws: torch.Tensor | None
) -> tuple[list[list[int]], list[float]]:
    device = next(lm.parameters()).device
    longest = max(map(len, prompts))
    # Left-padded, (B, S): every prompt ends at the last position, where its first new token is predicted.
    ids = torch.tensor([[layout.pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts], device=device)
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=device)
    cache, finished = DynamicCache(config=lm.config), torch.zeros(len(prompts), dtype=torch.bool, device=device)
    texts, sums = [[] for _ in prompts], torch.zeros(len(prompts), device=device)
    controls = [layout.bos, layout.pad, layout.begin_of_image, layout.end_of_image, layout.end_of_turn]
    for position in range(max_new_tokens):
        output = lm(input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, logits_to_keep=1)
        # (B, V), normalised before images and controls are excluded: scores are under the whole vocabulary
        log_probabilities = output.logits[:, -1].float().log_softmax(-1)
        log_probabilities[:, layout.image_offset : layout.image_offset + layout.num_image_codes] = -torch.inf
        log_probabilities[:, controls] = -torch.inf
        if temperature > 0:
            token = draw(token_probabilities(log_probabilities, temperature, 1.0), draws[:, position].to(device))
            log_probability = log_probabilities.gather(1, token[:, None])[:, 0]
        else:
            log_probability, token = log_probabilities.max(-1)
        finished = finished | (token == layout.eos)
        if finished.all():
            break
        sums += torch.where(finished, 0, log_probability)
        for text, value, done in zip(texts, token.tolist(), finished.tolist(), strict=True):
            if not done:
                text.append(value)
        ids = torch.where(finished, layout.pad, token)[:, None]
        mask = torch.cat([mask, torch.ones_like(ids)], 1)
    lengths = torch.tensor([max(1, len(text)) for text in texts], device=device)
    return texts, (sums / lengths).tolist()
