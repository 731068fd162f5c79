"""Images from a token model: exactly one grid of codes a sample, one fixed step at a time.

A step is one pass of the model and the choice of what it predicts. Plain decoding feeds one code a row; decoding from a
draft feeds a window of expected codes and keeps those that are drawn again (`visdyn.models.token.speculative`). Codes,
numbers and positions lie on the device and keep their shapes, so that on a GPU a step is one CUDA graph, launched
without waiting for the one before; on a CPU the same step runs as it is written.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from visdyn.models.token.decoding import draw, require_finite_states, token_probabilities
from visdyn.models.token.slot_cache import SlotCache, shared_prompts
from visdyn.models.token.speculative import accept_or_redraw
from visdyn.models.token.tokens import TokenLayout

BLOCK = 16
# Attention on a GPU reads a third of an image's slots, then two thirds, then all: three graphs. Where samples share a
# prompt, their slots are most of what is read, and it reads quarters.
STAGES, SHARED_STAGES = 3, 4
SHARING_ROWS = 32  # fewer rows on a CPU are faster with a prompt each, in one attention call of the library
LAG = 2  # passes on a GPU that may be under way before it is asked how far the first of them came


@dataclass(frozen=True)
class DraftedSamples:
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

    The prompt is computed once and its keys and values are kept once for its K samples. Prompts of one length form a
    batch, without padding.

    Args:
        lm: a causal decoder `lm.model` with rotary positions and full attention, under a bias-free `lm.lm_head`.
        prompts: N prompts (token ids) that end where the answer begins.
        draws: uniform numbers (N, K, L), L being the number of codes of an image.
        temperature, top_p: as in `visdyn.models.token.decoding.token_probabilities`.
        batch_size: samples decoded at a time.

    Returns:
        int64 (N, K, L) codes.

    Raises:
        ValueError: the model slides its attention, its states are no numbers, or a temperature or top_p out of range.
    """
    _check_attention(lm)
    codes = np.zeros(tuple(draws.shape), np.int64)
    decoder = ImageDecoder(lm, layout, temperature, top_p)
    for rows, ids in _split_batches(layout, prompts, batch_size, draws.shape[1]):
        codes[rows] = decoder.decode(ids, draws[rows]).codes
    return codes


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
) -> DraftedSamples:
    """Sample K grids of image codes for each prompt, as `sample_images` does, in fewer passes.

    The distribution is that of `sample_images`; the samples that given `draws` lead to are others. They depend neither
    on the batch nor on `block`, up to rounding. Prompts of one length form a batch; a prompt and its first block are
    computed once for its K samples, and each sample goes on at its own pace.

    Args:
        lm, prompts, draws, temperature, top_p, batch_size: as of `sample_images`.
        drafts: int (N, L), codes expected at each place; the source image's.
        block: codes checked in one pass, at least 1 (which is decoding without a draft). A larger block saves passes
            and computes more tokens in vain; of a small model's 64 codes 32 at once were fastest on a CPU.

    Raises:
        ValueError: drafts do not fit `draws` or the codebook, or a block, temperature or top_p out of range; or as of
            `sample_images`.
    """
    _check_attention(lm)
    drafts = np.asarray(drafts).reshape(len(drafts), -1)
    _check_drafts(layout, prompts, drafts, draws, block)
    codes = np.zeros(tuple(draws.shape), np.int64)
    passes, accepted, forwards = np.zeros_like(codes[..., 0]), np.zeros_like(codes[..., 0]), 0
    decoder = ImageDecoder(lm, layout, temperature, top_p, block)
    for rows, ids in _split_batches(layout, prompts, batch_size, draws.shape[1]):
        found = decoder.decode(ids, draws[rows], torch.as_tensor(drafts[rows]))
        codes[rows], passes[rows], accepted[rows] = found.codes, found.passes, found.accepted
        forwards += found.forwards
    return DraftedSamples(codes, passes, accepted, forwards)


def _split_batches(layout, prompts, batch_size: int, num_samples: int) -> Iterator[tuple[list[int], torch.Tensor]]:
    """Yield the numbers of prompts of one length, and their ids with begin-of-image, int64 (N, P)."""
    by_length = defaultdict(list)
    for row, prompt in enumerate(prompts):
        by_length[len(prompt)].append(row)
    step = max(1, batch_size // num_samples)
    for rows in by_length.values():
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            yield part, torch.tensor([[*prompts[row], layout.begin_of_image] for row in part])


def _check_attention(lm) -> None:
    if any("sliding" in kind or "chunked" in kind for kind in getattr(lm.config, "layer_types", None) or ()):
        raise ValueError("images are decoded with full attention in every layer, and this model slides its attention")


def _check_drafts(layout: TokenLayout, prompts, drafts: np.ndarray, draws: torch.Tensor, block: int) -> None:
    if drafts.shape != (len(prompts), draws.shape[2]) or len(draws) != len(prompts):
        raise ValueError(
            f"{len(prompts)} prompts need drafts of as many codes as there are draws, "
            f"not {drafts.shape} drafts and {tuple(draws.shape)} draws"
        )
    if drafts.size and not 0 <= drafts.min() <= drafts.max() < layout.num_image_codes:
        raise ValueError(f"drafted codes must lie in 0 to {layout.num_image_codes - 1}")
    if block < 1:
        raise ValueError(f"block must be at least 1, not {block}")


class ImageDecoder:
    """Decodes K samples for each of N prompts of one length; a row is a sample, and R = N * K.

    Attributes:
        lm: the causal decoder, or a peft model around it.
        block: codes fed in one pass; None decodes without a draft.
        staged: attention reads one of a few numbers of slots, as captured graphs need; else those that are filled.
        codes: int64 (R, L + W), what was drawn so far, then what is expected; no one looks beyond L.
        drafts: int64 (R, L + W), codes that each place favours. draws: float64 (R, L + W).
        done: int64, codes that are final: (R,), or (1,) without a draft, where all rows go on together.
        clock: int64; without a draft `done` and the newest code's position and slot, else `done`.
        newest: int64 (R, 1), without a draft the id of each row's newest code.
        states: (R, W, D), of the last step; sound: bool, with a draft: all states that a kept code was drawn by were
            numbers.
        passes, accepted: int64 (R,), passes taken part in, codes that are the draft's.
        live: int64, numbers of the rows that are still decoded; left: what the batch held whenever rows left it.
    """

    def __init__(
        self,
        lm,
        layout: TokenLayout,
        temperature: float,
        top_p: float,
        block: int | None = None,
        staged: bool | None = None,
    ) -> None:
        self.lm = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
        self.device = next(lm.parameters()).device
        self.offset, self.temperature, self.top_p, self.block = layout.image_offset, temperature, top_p, block
        # Only the head's rows of image codes are multiplied: constrained decoding without a logits processor.
        self.head = self.lm.lm_head.weight[self.offset : self.offset + layout.num_image_codes]  # (C, D)
        self.staged = self.device.type == "cuda" if staged is None else staged
        self.shape: tuple[int, ...] = ()

    def decode(self, ids: torch.Tensor, draws: torch.Tensor, drafts: torch.Tensor | None = None) -> DraftedSamples:
        """Decode codes (N, K, L) after prompts `ids` (N, P), by numbers (N, K, L), from `drafts` (N, L) where given."""
        self._start(ids, draws, drafts)
        if self.block is None:
            for done in range(1, self.length):
                self._advance(self._find_end(done))
            self.passes += self.length
            require_finite_states(self.states)  # the last ones: what is no number once is none in all later tokens
        else:
            self._decode_drafts()
            require_finite_states(self.states.where(self.sound, torch.nan))
        return self._collect(*draws.shape[:2])

    def _start(self, ids: torch.Tensor, draws: torch.Tensor, drafts: torch.Tensor | None) -> None:
        """Read the prompts, with their first drafted block, and choose the first codes."""
        count, num_samples, length = draws.shape  # N, K, L
        shape = count, ids.shape[1], num_samples, length
        if shape != self.shape:
            self._allocate(*shape)
        for tensor in (self.codes, self.passes, self.accepted):
            tensor.zero_()
        self.clock.copy_(self.started)
        self.sound.fill_(True)
        self.live, self.left = self.rows, []
        self.draws[:, :length] = draws.flatten(0, 1)
        ids = ids.to(self.device)
        if drafts is not None:
            drafts = drafts.to(self.device).long()
            self.drafts[:, :length] = drafts.repeat_interleave(num_samples, 0)
            self.codes.copy_(self.drafts)
            # One row a prompt: its samples share the draft. The last state predicts the code after the drafts.
            ids = torch.cat([ids, drafts[:, : self.width - 1] + self.offset], 1)  # (N, P + W - 1)
        output = self.lm.model(input_ids=ids, past_key_values=DynamicCache(config=self.lm.config), use_cache=True)
        self.cache.fill(output.past_key_values, copies=num_samples // self.cache.num_samples)
        self._choose(output.last_hidden_state[:, -self.width :].repeat_interleave(num_samples, 0))

    def _allocate(self, count: int, prompt_length: int, num_samples: int, length: int) -> None:
        self.shape = count, prompt_length, num_samples, length
        self.prompt_length, self.length = prompt_length, length
        self.width = width = 1 if self.block is None else min(self.block, length)  # W
        rows = count * num_samples
        sharing = num_samples if self.device.type != "cpu" or rows >= SHARING_ROWS else 1
        # Rows that are complete go on being fed up to a window beyond the end, which no one looks at.
        self.cache = SlotCache(prompt_length, sharing, length + width - 1)
        parts = STAGES if sharing == 1 else SHARED_STAGES
        self.stages = sorted({-(-self.cache.num_slots * part // parts) for part in range(1, parts + 1)})
        whole = {"dtype": torch.int64, "device": self.device}
        self.codes, self.drafts = (torch.zeros(rows, length + width, **whole) for _ in range(2))
        self.draws = torch.zeros(rows, length + width, dtype=torch.float64, device=self.device)
        self.passes, self.accepted = (torch.zeros(rows, **whole) for _ in range(2))
        # Without a draft all rows go on together: codes that are final, and of the newest its position and its slot.
        started = [0, prompt_length - 1, self.cache.first_slot - 1] if self.block is None else [0] * rows
        self.started = torch.tensor(started, device=self.device)
        self.clock = self.started.clone()
        self.done = self.clock[:1] if self.block is None else self.clock  # (1,) or (R,)
        self.newest = torch.zeros(rows, 1, **whole)
        self.sound = torch.ones((), dtype=torch.bool, device=self.device)
        self.steps = torch.arange(width, device=self.device)
        self.rows = torch.arange(rows, device=self.device)
        self.graphs: dict[int, torch.cuda.CUDAGraph | None] = {}

    def _find_end(self, filled: int) -> int:
        """Return how many slots a pass reads that needs the first `filled`."""
        return next(stage for stage in self.stages if stage >= filled) if self.staged else filled

    def _advance(self, end: int) -> None:
        """Take one step: on a GPU by its graph, which the second step of a stage captures."""
        if self.device.type != "cuda" or end not in self.graphs:
            self.graphs[end] = None  # the first step of a stage loads its kernels, which a capture must not do
            self._step(end)
            return
        if self.graphs[end] is None:
            pool = next((graph.pool() for graph in self.graphs.values() if graph is not None), None)
            self.graphs[end] = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graphs[end], pool=pool):
                self._step(end)
        self.graphs[end].replay()

    def _step(self, end: int) -> None:
        """Feed each row its newest code and those expected after it, and choose the codes that the states predict."""
        if self.block is None:
            ids, positions, together = self.newest, self.clock[None, 1:2], self.clock[2:]  # (R, 1), (1, 1), (1,)
            places = None if not self.staged else positions - self.prompt_length
        else:
            places, together = (self.done - 1)[:, None] + self.steps, None  # (R, W)
            ids, positions = self.codes.gather(1, places) + self.offset, places + self.prompt_length
        exact = self.block is None and not self.staged
        mask = self.cache.aim(places, end, self.head.dtype, exact, together)
        with shared_prompts(self.lm, self.cache) as options:
            output = self.lm.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=self.cache,
                use_cache=True,
                **options,
            )
        self._choose(output.last_hidden_state)

    def _choose(self, hidden: torch.Tensor) -> None:
        """Choose the next codes by the states (R, W, D) that predict them."""
        self.states = hidden
        logits = F.linear(hidden.flatten(0, 1), self.head)
        probabilities = token_probabilities(logits, self.temperature, self.top_p)  # (R * W, C)
        if self.block is not None:
            return self._verify_drafts(probabilities)
        drawn = draw(probabilities, self.draws.index_select(1, self.done)[:, 0])[:, None]  # (R, 1)
        self.codes.index_copy_(1, self.done, drawn)
        torch.add(drawn, self.offset, out=self.newest)
        self.clock += 1

    def _verify_drafts(self, probabilities: torch.Tensor) -> None:
        """Draw every place of the window, and keep what was drawn up to the first code that was not expected.

        What was drawn after it stems from a code that no longer holds; it is what the next pass expects.
        """
        places = self.done[:, None] + self.steps  # (R, W), of the codes that are predicted
        drafts, numbers = self.drafts.gather(1, places), self.draws.gather(1, places)
        drawn, accepted = accept_or_redraw(probabilities, drafts.flatten(), numbers.flatten())
        drawn, accepted = drawn.view_as(places), accepted.view_as(places)
        agreed = drawn == self.codes.gather(1, places)
        # (R, 1): the first place that was drawn otherwise, or the last of the window
        last = agreed.long().cumprod(1).sum(1, keepdim=True).clamp_max(self.width - 1)
        kept = (self.steps <= last) & (places < self.length)
        self.sound &= (torch.isfinite(self.states).all(-1) | ~kept).all()
        self.codes.scatter_(1, places, drawn)
        self.passes += self.done < self.length
        self.accepted += (kept & accepted).sum(1)
        self.done += kept.sum(1)

    def _decode_drafts(self) -> None:
        """Take steps until every row is complete; rows that are leave the batch where it runs on a CPU."""
        progress = _Progress(self.done)
        while True:
            done, behind = progress.read(self.done)
            if (done >= self.length).all():
                break
            if self.device.type == "cpu" and 2 * (done < self.length).sum() <= len(done):
                done = self._drop_complete_rows(done)
            # A row is a window further after each pass at most, and no further than its last slot.
            filled = min(int(done.max()) + behind * self.width - 1 + self.width, self.cache.num_slots)
            self._advance(self._find_end(filled))
            progress.note(self.done)

    def _drop_complete_rows(self, done: np.ndarray) -> np.ndarray:
        """Keep the prompts with an unfinished sample, and of each as many samples as the one with most of them."""
        waiting = (done < self.length).reshape(-1, self.cache.num_samples)  # (N, K)
        prompts = np.flatnonzero(waiting.any(1))
        samples = np.argsort(~waiting[prompts], axis=1, kind="stable")[:, : waiting.sum(1).max()]  # (N', K')
        rows = torch.from_numpy((prompts[:, None] * self.cache.num_samples + samples).reshape(-1))
        if len(rows) == len(done):
            return done
        self.left.append((self.live, self.codes, self.passes, self.accepted))
        self.cache.keep(torch.from_numpy(prompts), torch.from_numpy(samples))
        kept = (self.live, self.codes, self.drafts, self.draws, self.passes, self.accepted, self.done)
        self.live, self.codes, self.drafts, self.draws, self.passes, self.accepted, self.done = (
            part[rows] for part in kept
        )
        self.rows, self.shape = self.rows[: len(rows)], ()
        return done[rows.numpy()]

    def _collect(self, count: int, num_samples: int) -> DraftedSamples:
        """Bring what was decoded to the host; rows that stayed longest come last and count."""
        rows = count * num_samples
        codes = torch.zeros(rows, self.length, dtype=torch.int64, device=self.device)
        passes, accepted = (torch.zeros(rows, dtype=torch.int64, device=self.device) for _ in range(2))
        for live, *found in [*self.left, (self.live, self.codes, self.passes, self.accepted)]:
            codes[live], passes[live], accepted[live] = found[0][:, : self.length], found[1], found[2]
        shape = count, num_samples
        results = codes.reshape(*shape, -1), passes.reshape(shape), accepted.reshape(shape)
        return DraftedSamples(*(result.cpu().numpy() for result in results), forwards=int(passes.max()))


class _Progress:
    """How far the rows of a batch are: on a CPU now, on a GPU as of `LAG` passes ago, so that none waits for it."""

    def __init__(self, done: torch.Tensor) -> None:
        self.waiting: deque[tuple[torch.Tensor, torch.cuda.Event]] = deque()
        self.known = np.zeros(len(done), np.int64)
        self.note(done)

    def note(self, done: torch.Tensor) -> None:
        """Have `done` (R,) copied once the passes so far are through."""
        if done.is_cuda:
            copy = torch.empty(done.shape, dtype=done.dtype, pin_memory=True)
            copy.copy_(done, non_blocking=True)
            event = torch.cuda.Event()
            event.record()
            self.waiting.append((copy, event))

    def read(self, done: torch.Tensor) -> tuple[np.ndarray, int]:
        """Return the newest known `done` (R,), and how many passes are under way since."""
        if not done.is_cuda:
            return done.numpy(), 0
        if len(self.waiting) > LAG:
            copy, event = self.waiting.popleft()
            event.synchronize()
            self.known = copy.numpy()
        return self.known, len(self.waiting)
