"""Keys and values in fixed slots: a prompt's once for all its samples, and room for what each sample writes.

The library's own cache copies everything at every token, and keeps a prompt as often as it has samples. Here a pass
reads and writes tensors of one shape, whose addresses stay: it can be captured in a CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from transformers import AttentionInterface, DynamicCache

SHARED_PROMPT = "visdyn_shared_prompt"


class SlotCache(DynamicCache):
    """Keys and values of K samples for each of N prompts; row n * K + k is sample k of prompt n.

    A token stands at the slot of its number, at any pace of its row; a slot may be written again. A query attends to
    its prompt and to the slots up to its own, all of which were written by kept tokens or in the same pass.

    Attributes:
        prompt_length: P, tokens of every prompt, padding included.
        num_slots: S, slots of a sample.
        prompts: keys and values (N, H, P, D) of each layer.
        own: keys and values (N, H, K, S, D) of each layer; with one sample a view of `joint`.
        joint: with one sample, keys and values (N, H, P + S, D) of each layer, so that the library's attention reads
            both at once.
    """

    def __init__(self, prompt_length: int, num_samples: int, num_slots: int) -> None:
        super().__init__()
        self.prompt_length, self.num_samples, self.num_slots = prompt_length, num_samples, num_slots
        self.prompts: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.own: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.joint: list[tuple[torch.Tensor, torch.Tensor]] = []

    def fill(self, prefilled: DynamicCache, lengths: torch.Tensor | None = None, copies: int = 1) -> None:
        """Take over the prompts; what `prefilled` holds beyond them goes to every sample's first slots.

        Args:
            prefilled: of N rows, or of N / `copies`, each of which is then that many prompts.
            lengths: int64 (N,), of prompts that are padded on the right; None where none is.
        """
        states = [(layer.keys, layer.values) for layer in prefilled.layers]
        if copies > 1:
            states = [tuple(part.repeat_interleave(copies, 0) for part in pair) for pair in states]
        if not self.prompts:
            self._allocate(states)
        split = self.prompt_length
        for pair, prompts, own in zip(states, self.prompts, self.own, strict=True):
            for filled, prompt, slots in zip(pair, prompts, own, strict=True):
                prompt.copy_(filled[:, :, :split])
                slots[..., : filled.shape[2] - split, :] = filled[:, :, None, split:]
        # (N, 1, 1, P + S), columns of padding
        numbers = torch.arange(split + self.num_slots, device=self.slots.device)
        self.padded = None if lengths is None else ((numbers >= lengths[:, None]) & (numbers < split))[:, None, None]

    def _allocate(self, states: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
        split, like = self.prompt_length, states[0][0]
        count, heads, _, width = like.shape
        for pair in states:
            if self.num_samples == 1:
                both = tuple(part.new_zeros(count, heads, split + self.num_slots, width) for part in pair)
                self.joint.append(both)
                self.prompts.append(tuple(part[:, :, :split] for part in both))
                self.own.append(tuple(part[:, :, None, split:] for part in both))
            else:
                self.prompts.append(tuple(part.new_empty(count, heads, split, width) for part in pair))
                shape = count, heads, self.num_samples, self.num_slots, width
                self.own.append(tuple(part.new_zeros(shape) for part in pair))
        self._number_rows(count, like.device)

    def _number_rows(self, count: int, device: torch.device) -> None:
        # The prompts' keys and values as products of one batch dimension read them.
        flat = ((keys.flatten(0, 1), values.flatten(0, 1)) for keys, values in self.prompts if self.num_samples > 1)
        self.by_pair = [(keys.transpose(1, 2), values) for keys, values in flat]
        rows = torch.arange(count * self.num_samples, device=device)[:, None]
        self.prompt_of, self.sample_of = rows // self.num_samples, rows % self.num_samples  # (R, 1)
        # Slots from 0 on; before them, where attention reads the prompt in the same tensor, its places.
        self.slots = torch.arange(-self.first_slot, self.num_slots, device=device)

    def aim(
        self, places: torch.Tensor, end: int, dtype: torch.dtype, exact: bool, together: torch.Tensor | None = None
    ) -> torch.Tensor | None:
        """Let the next pass write at slots `places`, and read the slots before `end`; return its additive mask.

        Args:
            places: int64 (R, W), or (1, W) where all rows stand at the same slots.
            end: beyond the last slot that is read.
            exact: the last of one place a row is `end` - 1, so that nothing is to be hidden but padding.
            together: int64 (W,), the one row of places counted from `first_slot`, where it is at hand.

        Returns:
            (B, 1, W, slots read), B being 1 or R, or None where every query sees all that is read.
        """
        self.places, self.end = places, end
        if together is None and len(places) == 1:
            together = places[0] + self.first_slot
        self.together = together
        if exact and self.padded is None:
            return None
        slots = self.slots[: len(self.slots) - self.num_slots + end]
        hidden = slots > places[:, None, :, None]
        if self.padded is not None:
            hidden = hidden | self.padded[..., : len(slots)]
        return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill(hidden, torch.finfo(dtype).min)

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        """Write a layer's states (R, H, W, D) and return what attention reads."""
        states = key_states, value_states
        if self.together is None:
            for stored, new in zip(self.own[layer_idx], states, strict=True):
                # Advanced indices around a slice put (R, W) first: the value is (R, W, H, D).
                stored[self.prompt_of, :, self.sample_of, self.places] = new.transpose(1, 2)
        elif self.num_samples > 1:
            for stored, new in zip(self.own[layer_idx], states, strict=True):
                grid = new.view(-1, self.num_samples, *new.shape[1:]).transpose(1, 2)  # (N, H, K, W, D)
                stored.index_copy_(3, self.together, grid)
        else:
            for stored, new in zip(self.joint[layer_idx], states, strict=True):
                stored.index_copy_(2, self.together, new)
        if self.num_samples == 1:
            keys, values = self.joint[layer_idx]
            read = self.prompt_length + self.end
            return keys[:, :, :read], values[:, :, :read]
        keys, values = self.own[layer_idx]
        return keys[..., : self.end, :], values[..., : self.end, :]

    def keep(self, prompts: torch.Tensor, samples: torch.Tensor) -> None:
        """Keep these prompts (N',) with these of their samples (N', K') only."""
        own = [tuple(part[prompts[:, None], :, samples].transpose(1, 2) for part in pair) for pair in self.own]
        kept = [tuple(part[prompts] for part in pair) for pair in self.prompts]
        self.num_samples = samples.shape[1]
        if self.num_samples == 1:  # (N', H, P + S, D)
            self.joint = [tuple(torch.cat([prompt, slots[:, :, 0]], 2) for prompt, slots in zip(*both, strict=True))
                          for both in zip(kept, own, strict=True)]  # fmt: skip
            split = self.prompt_length
            kept = [tuple(part[:, :, :split] for part in pair) for pair in self.joint]
            own = [tuple(part[:, :, None, split:] for part in pair) for pair in self.joint]
        self.prompts, self.own = kept, own
        self._number_rows(len(prompts), self.slots.device)

    @property
    def first_slot(self) -> int:
        """Where slot 0 stands in the tensors that are written: after the prompt, where that is in the same tensor."""
        return self.prompt_length if self.num_samples == 1 else 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.prompt_length + self.end - 1

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.prompt_length + self.end, 0


@contextmanager
def shared_prompts(lm, cache: SlotCache) -> Iterator[dict[str, SlotCache]]:
    """Let a decoder's layers attend to prompts that several samples share; yield what its pass must be told for it."""
    if cache.num_samples == 1:
        yield {}
        return
    before = lm.config._attn_implementation
    lm.config._attn_implementation = {"": SHARED_PROMPT}  # of the decoder alone, not of the configurations inside it
    try:
        yield {"slots": cache}
    finally:
        lm.config._attn_implementation = {"": before}


def _attend_to_shared_prompt(module, query, key, value, attention_mask, scaling, slots: SlotCache, **_):
    """Attend to a prompt and to a sample's own slots under one softmax; the prompt is read once for its samples.

    Args:
        query: (R, heads, W, D). key, value: (N, H, K, slots read, D); several heads may share one of the H.
        attention_mask: additive, (1 or R, 1, W, slots read), or None.

    Returns:
        (R, W, heads, D), and None in place of the weights.
    """
    prompt_keys, prompt_values = slots.by_pair[module.layer_idx]  # (N * H, D, P) and (N * H, P, D)
    count, heads, samples, _, width = key.shape
    rows, _, window, _ = query.shape
    pairs, split = count * heads, slots.prompt_length
    # (N, H, K, G * W, D), G being the heads that share keys
    asked = (query * scaling).reshape(count, samples, heads, -1, width).transpose(1, 2).contiguous()
    scores = query.new_empty(pairs * samples, asked.shape[3], split + key.shape[3])  # (N * H * K, G * W, P + S)
    torch.bmm(asked.view(pairs, -1, width), prompt_keys, out=scores.view(pairs, -1, scores.shape[2])[..., :split])
    single = torch.bmm(asked.flatten(0, 2), key.flatten(0, 2).transpose(1, 2), out=scores[..., split:])
    if attention_mask is not None:
        grid = (count, samples) if len(attention_mask) > 1 else (1, 1)
        mask = attention_mask.view(*grid, 1, window, -1).transpose(1, 2).unsqueeze(3)  # (N, 1, K, 1, W, S)
        single.view(count, heads, samples, -1, window, key.shape[3]).add_(mask)
    weights = scores.softmax(-1)  # summed in float32 also where it is rounded to bfloat16
    mixed = torch.bmm(weights[..., split:], value.flatten(0, 2)).view(pairs, -1, width)
    mixed = torch.baddbmm(mixed, weights[..., :split].view(pairs, -1, split), prompt_values)
    # (N, H, K, G, W, D) to (N, K, W, H, G, D)
    mixed = mixed.view(count, heads, samples, -1, window, width).permute(0, 2, 4, 1, 3, 5)
    return mixed.reshape(rows, window, -1, width), None


AttentionInterface.register(SHARED_PROMPT, _attend_to_shared_prompt)
