"""Log-likelihoods over shared prefixes: tokens that several sequences begin with are computed once.

A probe scores a reference and four negatives that differ from it in one part, and a verifier scores K candidates after
one source image. Their sequences form a tree: a node holds a stretch of tokens common to all sequences below it, and
its keys and values are the past of its children. The scores are those of
`visdyn.models.token.scoring.score_completions`, up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from transformers import DynamicCache

from visdyn.models.token.scoring import POSITIONS_AT_ONCE, Scores, check_inside_block
from visdyn.models.token.sequences import TokenSequence

MIN_SHARED = 16  # a shorter common stretch costs a pass of its own and saves next to nothing
_PADDING_SLACK = 8  # segments in one pass differ in length by this much, or by an eighth


@dataclass
class _Node:
    """Tokens [start, stop) of the sequences `rows`, which are equal up to `stop`."""

    rows: list[int]
    start: int
    stop: int
    children: list[_Node] = field(default_factory=list)

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass
class _Past:
    """The KV cache that a pass leaves: each layer's keys and values (B, H, S, D), and which slots are filled (B, S)."""

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    filled: torch.Tensor


class _BranchCache(DynamicCache):
    """Continues rows of a `_Past`; a layer's rows are copied when that layer runs, and kept only where asked."""

    def __init__(self, past: _Past | None, rows: torch.Tensor, keep: bool) -> None:
        super().__init__()
        self.past, self.rows, self.keep = past, rows, keep
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []

    def update(self, key_states, value_states, layer_idx, *args, **kwargs):
        states = key_states, value_states
        if self.past is not None:
            pairs = zip(self.past.layers[layer_idx], states, strict=True)
            states = tuple(torch.cat([old[self.rows], new], -2) for old, new in pairs)  # (B, H, S + W, D) each
        if self.keep:
            self.kept.append(states)
        return states

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return 0 if self.past is None else self.past.filled.shape[1]

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        return self.get_seq_length() + query_length, 0


class _TreeScorer:
    """Walks a tree depth first and sums the log-probabilities of each sequence's scored tokens."""

    def __init__(self, lm, ids: list[np.ndarray], scored: list[np.ndarray], pad: int, restrict_to: slice | None):
        self.lm = lm.get_base_model() if hasattr(lm, "get_base_model") else lm
        self.ids, self.scored, self.pad = ids, scored, pad
        self.device = next(lm.parameters()).device
        self.block = restrict_to or slice(0, None)
        self.total = torch.zeros(len(ids), dtype=torch.float64)

    def score_tree(
        self, nodes: list[_Node], batch_size: int, past: _Past | None = None, parents: Sequence[int] = ()
    ) -> None:
        """Compute `nodes`, whose parents are the rows `parents` of `past`, and all below them."""
        for batch in _split_into_passes(nodes, batch_size):
            rows = torch.tensor([parents[index] for index in batch] if past else [], dtype=torch.int64)
            members = [nodes[index] for index in batch]
            computed = self._run_nodes(members, past, rows.to(self.device))
            below = [(row, child) for row, node in enumerate(members) for child in node.children]
            self.score_tree([child for _, child in below], batch_size, computed, [row for row, _ in below])

    def _run_nodes(self, nodes: list[_Node], past: _Past | None, rows: torch.Tensor) -> _Past | None:
        ids, filled, positions = (values.to(self.device) for values in self._pad_tokens(nodes))
        mask = None  # a root attends causally, and its padding comes after all that counts
        if past is not None:
            filled = mask = torch.cat([past.filled[rows], filled], 1)  # (B, S + W)
        keep = bool(nodes[0].children)
        cache = _BranchCache(past, rows, keep)
        output = self.lm.model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        self._add_log_probabilities(nodes, output.last_hidden_state)
        return _Past(cache.kept, filled) if keep else None

    def _pad_tokens(self, nodes: list[_Node]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Right-pad the nodes' tokens: ids, which slots are filled, and positions, int64 (B, W)."""
        width = max(map(len, nodes))  # W
        ids = np.full((len(nodes), width), self.pad)
        mask, positions = np.zeros_like(ids), np.zeros_like(ids)
        for row, node in enumerate(nodes):
            inside = slice(0, len(node))
            ids[row, inside] = self.ids[node.rows[0]][node.start : node.stop]
            mask[row, inside], positions[row, inside] = 1, np.arange(node.start, node.stop)
        return torch.from_numpy(ids), torch.from_numpy(mask), torch.from_numpy(positions)

    def _add_log_probabilities(self, nodes: list[_Node], hidden: torch.Tensor) -> None:
        places, targets, rows = self._locate_scored_tokens(nodes, hidden.shape[1])
        flat, head = hidden.flatten(0, 1), self.lm.lm_head.weight[self.block]  # (B * W, D), (V, D)
        # Sequences that part after a place want different tokens of the same logits.
        unique, inverse = np.unique(places, return_inverse=True)
        for start in range(0, len(unique), POSITIONS_AT_ONCE):
            part = torch.from_numpy(unique[start : start + POSITIONS_AT_ONCE]).to(self.device)
            logits = F.linear(flat[part], head).float()  # (part, V)
            inside = (inverse >= start) & (inverse < start + POSITIONS_AT_ONCE)
            local = torch.from_numpy(inverse[inside] - start).to(self.device)
            picked = logits[local, torch.from_numpy(targets[inside] - self.block.start).to(self.device)]
            log_probabilities = (picked - logits.logsumexp(-1)[local]).double().cpu()
            self.total.index_add_(0, torch.from_numpy(rows[inside]), log_probabilities)

    def _locate_scored_tokens(self, nodes: list[_Node], width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return where in the flattened states each scored token is predicted, the token, and its sequence."""
        places, targets, rows = [], [], []
        for index, node in enumerate(nodes):
            for row in node.rows:
                tokens = self.scored[row]
                # The state at position i predicts the token at i + 1: this node predicts start + 1 to stop.
                tokens = tokens[(tokens > node.start) & (tokens <= node.stop)]
                # Nodes are left-aligned: position `start` stands in the first column.
                places.append(index * width + tokens - 1 - node.start)
                targets.append(self.ids[row][tokens])
                rows.append(np.full(len(tokens), row))
        return np.concatenate(places), np.concatenate(targets), np.concatenate(rows)


def _split_into_passes(nodes: list[_Node], batch_size: int) -> Iterator[list[int]]:
    """Split nodes into passes of like length; those with children apart, because only their keys are kept."""
    order = sorted(range(len(nodes)), key=lambda index: (not nodes[index].children, len(nodes[index])))
    batch: list[int] = []
    for index in order:
        first = nodes[batch[0]] if batch else nodes[index]
        longest = len(first) + max(_PADDING_SLACK, len(first) // 8)
        alike = bool(first.children) == bool(nodes[index].children) and len(nodes[index]) <= longest
        if len(batch) == batch_size or not alike:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _build_prefix_tree(ids: list[np.ndarray], min_shared: int) -> list[_Node]:
    """Return the roots of the compressed tree of all sequences; every sequence ends in a leaf of its own."""
    order = sorted(range(len(ids)), key=lambda row: ids[row].astype(">u4").tobytes())
    # In sorted order, sequences with a common prefix are neighbours (big-endian bytes sort as the numbers do).
    shared = [_common_prefix_length(ids[left], ids[right]) for left, right in pairwise(order)]

    def split_branches(low: int, high: int, start: int) -> list[_Node]:
        cuts = [low, *(at for at in range(low + 1, high) if shared[at - 1] < start + min_shared), high]
        return [node(left, right, start) for left, right in pairwise(cuts)]

    def node(low: int, high: int, start: int) -> _Node:
        if high - low == 1:
            return _Node([order[low]], start, len(ids[order[low]]))
        stop = min(shared[low : high - 1])
        return _Node(order[low:high], start, stop, split_branches(low, high, stop))

    return split_branches(0, len(order), 0) if order else []


def _common_prefix_length(left: np.ndarray, right: np.ndarray) -> int:
    """Length of the common prefix, at most one less than the shorter: a leaf needs a token."""
    length = min(len(left), len(right)) - 1
    differs = np.flatnonzero(left[:length] != right[:length])
    return int(differs[0]) if len(differs) else length


@torch.inference_mode()
def score_shared(
    lm,
    sequences: Sequence[TokenSequence],
    scored: slice,
    pad: int,
    batch_size: int = 64,
    restrict_to: slice | None = None,
    min_shared: int = MIN_SHARED,
) -> Scores:
    """Score the tokens `scored` of every completion, as `score_completions` does, and compute common prefixes once.

    Args:
        lm: a causal decoder `lm.model` with rotary positions and full attention, under a bias-free `lm.lm_head`.
        sequences: prompts with completions, in any order; sharing is found, not declared.
        scored: which tokens of a completion count (for example `slice(0, -1)` leaves out the eos).
        pad: id of the padding token.
        batch_size: segments in one pass. Keys and values of so many shared segments are held at each depth of the tree.
        restrict_to: renormalise over this block of the vocabulary (image codes), as constrained decoding does.
        min_shared: the shortest common stretch that is split off, in tokens, at least 1.

    Raises:
        ValueError: a scored token lies outside `restrict_to`, a prompt is empty, or the model slides its attention.
    """
    _check_inputs(lm, sequences, min_shared)
    if restrict_to is not None:
        check_inside_block(sequences, scored, restrict_to)
    ids = [np.concatenate([item.prompt, item.completion]).astype(np.int64) for item in sequences]
    places = [np.arange(len(item.prompt), len(tokens))[scored] for item, tokens in zip(sequences, ids, strict=True)]
    scorer = _TreeScorer(lm, ids, places, pad, restrict_to)
    scorer.score_tree(_build_prefix_tree(ids, min_shared), batch_size)
    counts = torch.tensor([len(values) for values in places], dtype=torch.int64)
    total = scorer.total.float()
    return Scores(total / counts.clamp_min(1), total, counts)


def _check_inputs(lm, sequences: Sequence[TokenSequence], min_shared: int) -> None:
    if min_shared < 1:
        raise ValueError(f"min_shared must be at least 1, not {min_shared}")
    if any("sliding" in kind or "chunked" in kind for kind in getattr(lm.config, "layer_types", None) or ()):
        raise ValueError("shared prefixes need full attention in every layer; score this model with score_completions")
    for row, item in enumerate(sequences):
        if not len(item.prompt) or not len(item.completion):
            raise ValueError(f"sequence {row} has an empty prompt or completion: there is nothing to score it from")


def score_options(
    lm, prompt: Sequence[int], completions: Sequence[Sequence[int]], scored: slice, pad: int, **options
) -> Scores:
    """Score several completions (N lists of token ids) of one prompt, which is computed once.

    Args:
        options: `batch_size`, `restrict_to` and `min_shared` of `score_shared`.
    """
    prompt = np.asarray(prompt)
    sequences = [TokenSequence(prompt, np.asarray(tokens), np.ones(len(tokens), np.float32)) for tokens in completions]
    return score_shared(lm, sequences, scored, pad, **options)


def count_tokens(sequences: Sequence[TokenSequence], min_shared: int = MIN_SHARED) -> tuple[int, int]:
    """Return how many tokens `score_shared` computes, and how many separate forwards would, padding left out."""
    ids = [np.concatenate([item.prompt, item.completion]) for item in sequences]

    def below(nodes: list[_Node]) -> int:
        return sum(len(node) + below(node.children) for node in nodes)

    return below(_build_prefix_tree(ids, min_shared)), sum(map(len, ids))
