"""Image decoding with the source image's codes as a free draft: speculative sampling without a draft model.

Most codes of a target image equal the source's at the same place of the grid. Each pass of the model checks a block of
drafted codes at once and keeps the accepted ones and one more. The draft is deterministic, so the rule of speculative
sampling (Leviathan et al., 2023; Chen et al., 2023) becomes: accept the drafted code x with probability p(x), else draw
from p with x removed and renormalised. What is drawn follows p whatever the draft is; a bad draft costs passes only.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from visdyn.models.token.decoding import allocate_slots, draw, require_finite_states, token_probabilities
from visdyn.models.token.tokens import TokenLayout

BLOCK = 16


@dataclass(frozen=True)
class SpeculativeSamples:
    """Sampled codes, and what they cost.

    Attributes:
        codes: int64 (N, K, L).
        passes: int64 (N, K), passes each sample took part in until it was complete, the prompt's included; decoding
            without a draft takes L.
        accepted: int64 (N, K), codes that are the draft's.
        forwards: passes of the model for all samples together, over all batches.
    """

    codes: np.ndarray
    passes: np.ndarray
    accepted: np.ndarray
    forwards: int


def accept_or_redraw(
    probabilities: torch.Tensor, drafts: torch.Tensor, uniforms: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Accept each drafted code with its probability, else draw from the others.

    One uniform number u serves both decisions: u < p(x) accepts, and (u - p(x)) / (1 - p(x)), which is uniform again
    given a rejection, inverts the distribution of the rest.

    Args:
        probabilities: float (B, V), rows sum to 1.
        drafts: int64 (B,).
        uniforms: float64 (B,) in [0, 1).

    Returns:
        codes int64 (B,) and which of them are the draft, bool (B,).
    """
    drafted = _gather_probabilities(probabilities, drafts)  # p(x), (B,)
    accepted = uniforms < drafted
    left = (uniforms - drafted) / (1 - drafted).clamp_min(torch.finfo(torch.float64).tiny)
    rest = probabilities.scatter(-1, drafts[:, None], 0.0)  # (B, V), not renormalised: `draw` scales by the sum
    return torch.where(accepted, drafts, draw(rest, left.clamp(0, 1 - 2**-53))), accepted


def _gather_probabilities(probabilities: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Return float64 (B,), rounding of the rows' sums divided out: a certain code is accepted whatever the number."""
    chosen = probabilities.gather(-1, codes[:, None]).squeeze(1).double()
    return chosen / probabilities.sum(-1, dtype=torch.float64)


@torch.inference_mode()
def sample_images_from_draft(
    lm,
    layout: TokenLayout,
    prompts: Sequence[Sequence[int]],
    drafts: np.ndarray,
    draws: torch.Tensor,
    temperature: float = 1.0,
    top_p: float = 1.0,
    batch_size: int = 128,
    block: int = BLOCK,
) -> SpeculativeSamples:
    """Sample K grids of image codes for each prompt, as `visdyn.models.token.decoding.sample_images` does, in fewer
    passes.

    The distribution is that of `sample_images`; the samples that given `draws` lead to are others. They depend neither
    on the batch nor on `block`, up to rounding. Prompts of one length form a batch; a prompt and its first block are
    computed once for its K samples, and each sample goes on at its own pace.

    Args:
        lm: a causal decoder `lm.model` with rotary positions and full attention (sdpa or eager: the attention mask is
            dense), under a bias-free `lm.lm_head`.
        prompts: N prompts (token ids) that end where the answer begins.
        drafts: int (N, L), codes expected at each place; the source image's.
        draws: uniform numbers (N, K, L).
        temperature, top_p: as in `visdyn.models.token.decoding.token_probabilities`.
        batch_size: samples decoded at a time.
        block: codes checked in one pass, at least 1 (which is decoding without a draft). A larger block saves passes
            and computes more tokens in vain: 4 was fastest on a CPU; where a pass is bound by memory take 16 or more.

    Raises:
        ValueError: drafts do not fit `draws` or the codebook, or a block, temperature or top_p out of range.
    """
    num_prompts, num_samples, length = draws.shape
    drafts = np.asarray(drafts).reshape(len(drafts), -1)
    _check_inputs(lm, layout, prompts, drafts, draws, block)
    codes = np.zeros((num_prompts, num_samples, length), np.int64)
    passes, accepted, forwards = np.zeros_like(codes[..., 0]), np.zeros_like(codes[..., 0]), 0
    by_length = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    step = max(1, batch_size // num_samples)
    for rows in by_length.values():
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            ids = torch.tensor([[*prompts[row], layout.begin_of_image] for row in part])
            run = _SpeculativeDecoder(
                lm, layout, ids, torch.as_tensor(drafts[part]), draws[part], temperature, top_p, block
            )
            codes[part], passes[part], accepted[part] = run.decode()
            forwards += run.forwards
    return SpeculativeSamples(codes, passes, accepted, forwards)


def _check_inputs(lm, layout: TokenLayout, prompts, drafts: np.ndarray, draws: torch.Tensor, block: int) -> None:
    if drafts.shape != (len(prompts), draws.shape[2]) or len(draws) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts need drafts of as many codes as there are draws, "
            f"not {drafts.shape} drafts and {tuple(draws.shape)} draws"
        )
    if drafts.size and not 0 <= drafts.min() <= drafts.max() < layout.num_image_codes:
        raise ValueError(f"drafted codes must lie in 0 to {layout.num_image_codes - 1}")
    if block < 1:
        raise ValueError(f"block must be at least 1, not {block}")
    if any("sliding" in kind or "chunked" in kind for kind in getattr(lm.config, "layer_types", None) or ()):
        raise ValueError("decoding from a draft needs full attention in every layer; use sample_images")


class _SlotCache(DynamicCache):
    """Keys and values at the slot of their position, one pace per row; a rejected token's slot is written again.

    A query attends to the slots up to its own position, and these were all written by kept tokens or in this pass.
    """

    def __init__(self, prefilled: DynamicCache, repeats: int, num_slots: int) -> None:
        super().__init__()
        self.states = [
            [allocate_slots(layer.keys, repeats, num_slots), allocate_slots(layer.values, repeats, num_slots)]
            for layer in prefilled.layers
        ]
        self.positions: torch.Tensor | None = None
        self.end = 0

    def write_at(self, positions: torch.Tensor) -> _SlotCache:
        """Write the next pass's tokens at `positions` (B, W)."""
        self.positions, self.end = positions, int(positions.max()) + 1
        return self

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        rows = torch.arange(len(key_states), device=key_states.device)[:, None]
        for stored, new in zip(self.states[layer_idx], (key_states, value_states), strict=True):
            # Advanced indices (B, 1) and (B, W) around a slice put (B, W) first: the value is (B, W, H, D).
            stored[rows, :, self.positions] = new.transpose(1, 2)
        keys, values = self.states[layer_idx]
        return keys[:, :, : self.end], values[:, :, : self.end]

    def make_mask(self, dtype: torch.dtype) -> torch.Tensor:
        """Return the additive attention mask (B, 1, W, end) of the next pass."""
        slots = torch.arange(self.end, device=self.positions.device)
        hidden = slots > self.positions[:, None, :, None]  # (B, 1, W, end)
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, torch.finfo(dtype).min)

    def keep_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows only."""
        self.states = [[tensor[rows] for tensor in pair] for pair in self.states]


@dataclass
class _SpeculativeDecoder:
    """Decodes K samples for each of N prompts of one length; a row is a sample, and R = N * K.

    Attributes:
        lm: the causal decoder, or a peft model around it.
        ids: int64 (N, S), the prompts.
        drafts: int (N, L), the drafted codes of each prompt; int64 (R, L) once it runs.
        draws: uniform numbers (N, K, L); (R, L) once it runs.
        block: codes checked in one pass, at most L.
        codes: int64 (R, L), what was drawn so far.
        done, passes, accepted: int64 (R,), codes that are final, passes taken part in, codes that are the draft's.
        rows: int64, the rows that the cache still holds.
        forwards: passes of the model.
    """

    lm: torch.nn.Module
    layout: TokenLayout
    ids: torch.Tensor
    drafts: torch.Tensor
    draws: torch.Tensor
    temperature: float
    top_p: float
    block: int
    codes: torch.Tensor = field(init=False)
    done: torch.Tensor = field(init=False)
    passes: torch.Tensor = field(init=False)
    accepted: torch.Tensor = field(init=False)
    rows: torch.Tensor = field(init=False)
    forwards: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.device = next(self.lm.parameters()).device
        self.lm = self.lm.get_base_model() if hasattr(self.lm, "get_base_model") else self.lm
        self.offset = self.layout.image_offset
        self.head = self.lm.lm_head.weight[self.offset : self.offset + self.layout.num_image_codes]  # (C, D)
        self.count, self.num_samples, self.length = self.draws.shape  # N, K, L
        self.ids, self.block = self.ids.to(self.device), min(self.block, self.length)
        self.drafts = self.drafts.to(self.device).long().repeat_interleave(self.num_samples, 0)
        self.draws = self.draws.flatten(0, 1).to(self.device)
        rows = len(self.draws)
        self.codes = torch.zeros(rows, self.length, dtype=torch.int64, device=self.device)
        self.done, self.passes, self.accepted = (
            torch.zeros(rows, dtype=torch.int64, device=self.device) for _ in range(3)
        )
        self.rows = torch.arange(rows, device=self.device)

    def decode(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return codes (N, K, L), passes (N, K) and accepted (N, K)."""
        cache, hidden = self._prefill_prompts()
        self._verify_drafts(hidden)
        while True:
            unfinished = self.done[self.rows] < self.length
            if not unfinished.any():
                break
            if unfinished.sum() * 2 <= len(self.rows):  # copying the cache at each halving costs little
                cache.keep_rows(unfinished)
                self.rows = self.rows[unfinished]
            self._verify_drafts(self._run_drafted_block(cache))
        shape = self.count, self.num_samples
        results = self.codes.reshape(*shape, -1), self.passes.reshape(shape), self.accepted.reshape(shape)
        return tuple(result.cpu().numpy() for result in results)

    def _prefill_prompts(self) -> tuple[_SlotCache, torch.Tensor]:
        """Compute each prompt with its first drafted block, and spread the states over its samples."""
        # One row a prompt: its samples share the draft. The last state predicts the code after the drafts.
        drafted = self.drafts[:: self.num_samples, : self.block - 1] + self.offset  # (N, W - 1)
        ids = torch.cat([self.ids, drafted], 1)  # (N, S + W - 1)
        output = self.lm.model(input_ids=ids, past_key_values=DynamicCache(config=self.lm.config), use_cache=True)
        self.forwards += 1
        # Rows near their end are fed up to a block of codes beyond it, which no one looks at.
        num_slots = self.ids.shape[1] + self.length + self.block
        cache = _SlotCache(output.past_key_values, self.num_samples, num_slots)
        return cache, output.last_hidden_state[:, -self.block :].repeat_interleave(self.num_samples, 0)

    def _run_drafted_block(self, cache: _SlotCache) -> torch.Tensor:
        """Feed each row its newest code and the drafts after it; return the states that predict the codes after."""
        done = self.done[self.rows]  # (B,)
        width = min(self.block, int((self.length - done).max()))  # W
        places = done[:, None] - 1 + torch.arange(width, device=self.device)  # (B, W), of the codes that are fed
        inside = places.clamp_max(self.length - 1)
        codes = self.drafts[self.rows].gather(1, inside)  # (B, W)
        codes[:, 0] = self.codes[self.rows, inside[:, 0]]
        positions = self.ids.shape[1] + places  # (B, W), counted from the prompt's first token
        cache.write_at(positions)
        output = self.lm.model(
            input_ids=codes + self.offset,
            attention_mask=cache.make_mask(self.head.dtype),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
        self.forwards += 1
        return output.last_hidden_state

    def _verify_drafts(self, hidden: torch.Tensor) -> None:
        """Keep the drafts that `hidden` (B, W, D) accepts, up to the first it does not, and the code drawn there."""
        done, width = self.done[self.rows], hidden.shape[1]  # (B,), W
        places = done[:, None] + torch.arange(width, device=self.device)  # (B, W), of the codes that are predicted
        inside = places.clamp_max(self.length - 1)
        drafts, numbers = (values[self.rows].gather(1, inside) for values in (self.drafts, self.draws))
        # (B * W, C)
        probabilities = token_probabilities(F.linear(hidden.flatten(0, 1), self.head), self.temperature, self.top_p)
        agreed = (numbers.flatten() < _gather_probabilities(probabilities, drafts.flatten())).reshape(places.shape)
        # (B, 1): the first place whose draft was not accepted, or the last of the block
        last = agreed.long().cumprod(1).sum(1, keepdim=True).clamp_max(width - 1)
        # Only one place of each row is drawn: what follows it was computed from a draft that no longer holds.
        at = torch.arange(len(last), device=self.device) * width + last.squeeze(1)  # (B,), rows of `probabilities`
        require_finite_states(hidden.flatten(0, 1)[at][done < self.length])
        drawn, accepted = accept_or_redraw(probabilities[at], drafts.gather(1, last).squeeze(1), numbers.flatten()[at])
        chosen = drafts.scatter(1, last, drawn[:, None])  # (B, W)
        kept = (torch.arange(width, device=self.device) <= last) & (places < self.length)
        # Places beyond the end stem from rows that are shorter than the widest one of this pass.
        self.codes[self.rows[:, None].expand_as(places)[kept], places[kept]] = chosen[kept]
        self.passes[self.rows] += (done < self.length).long()
        self.accepted[self.rows] += (kept & agreed.scatter(1, last, accepted[:, None])).sum(1)
        self.done[self.rows] = done + kept.sum(1)
