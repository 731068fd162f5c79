"""The decoder's step as a GPU takes it: few shapes, nothing read back, the same operators again; the codes of a CPU."""

from __future__ import annotations

from collections import defaultdict, deque
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch._dynamo
from performance_bars import check_bar
from torch._dynamo.utils import counters
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import DynamicCache

from visdyn.models.token import image_decoder
from visdyn.models.token.chameleon import ChameleonLM, tiny_config
from visdyn.models.token.decoding import _decode_text, uniforms
from visdyn.models.token.image_decoder import ImageDecoder, sample_images, sample_images_from_draft
from visdyn.models.token.slot_cache import SlotCache, shared_prompts
from visdyn.models.token.tokens import TokenLayout

SYNCS = {"_local_scalar_dense", "item", "nonzero", "is_nonzero", "equal", "masked_select", "bincount"}


@pytest.fixture(scope="module")
def prompts(tiny, grids):
    """Three prompts of one length."""
    return [tiny.builder.forward_prompt(grids[row], "open the cup") for row in range(3)]


@pytest.fixture(params=[1, 3], ids=["K=1", "K=3"])
def draws(request, monkeypatch):
    monkeypatch.setattr(image_decoder, "SHARING_ROWS", 0)  # as on a GPU
    return uniforms(3 * request.param, 16, torch.Generator().manual_seed(0)).reshape(3, request.param, 16)


@pytest.fixture(scope="module")
def drafts(tiny, prompts):
    """Codes that are likely, and some that are not."""
    numbers = uniforms(3, 16, torch.Generator().manual_seed(1))[:, None]
    likely = sample_images(tiny.lm, tiny.layout, prompts, numbers, 0.5)[:, 0]
    likely[:, ::5] = 3
    return likely


class _Operators(TorchDispatchMode):
    """Notes every operator with the shapes and the plain numbers that it is given, and those that read back."""

    def __init__(self) -> None:
        super().__init__()
        self.calls, self.syncs = [], 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.split("::")[1]
        given = [tuple(leaf.shape) if isinstance(leaf, torch.Tensor) else leaf for leaf in tree_leaves((args, kwargs))]
        self.calls.append((name, given))
        by_mask = any(
            isinstance(leaf, torch.Tensor) and leaf.dtype == torch.bool for leaf in tree_leaves(list(args[1:2]))
        )
        self.syncs += name in SYNCS or (name in ("index", "index_put_") and by_mask)
        return func(*args, **kwargs)


def _ids(tiny, prompts) -> torch.Tensor:
    return torch.tensor([[*prompt, tiny.layout.begin_of_image] for prompt in prompts])


def _decoder(tiny, block) -> ImageDecoder:
    return ImageDecoder(tiny.lm, tiny.layout, 1.0, 1.0, block, staged=True)


def _reference(tiny, prompts, draws, drafts, block) -> np.ndarray:
    if block is None:
        return sample_images(tiny.lm, tiny.layout, prompts, draws)
    return sample_images_from_draft(tiny.lm, tiny.layout, prompts, drafts, draws, block=block).codes


@pytest.mark.parametrize("block", [None, 1, 5])
@torch.inference_mode()
def test_few_shapes_give_the_same_codes(tiny, prompts, draws, drafts, block, monkeypatch):
    """Parts of the slots and all of them: as many shapes for an image of any length."""
    wanted, shapes, update = _reference(tiny, prompts, draws, drafts, block), set(), SlotCache.update

    def looking(self, keys, values, layer, *args):
        read = update(self, keys, values, layer, *args)
        shapes.add((tuple(keys.shape), tuple(read[0].shape)))
        return read

    monkeypatch.setattr(SlotCache, "update", looking)
    monkeypatch.setattr(ImageDecoder, "_drop_complete_rows", lambda self, done: done)  # a GPU keeps them
    decoder, chosen = _decoder(tiny, block), None if block is None else torch.from_numpy(drafts)
    for _ in range(2):  # a second batch finds the first one's tensors
        assert np.array_equal(decoder.decode(_ids(tiny, prompts), draws, chosen).codes, wanted)
    assert 2 <= len(shapes) <= (3 if draws.shape[1] == 1 else 4)
    if draws.shape[1] > 1 and block != 1:  # samples that share a prompt meet one shape more
        if block is None:
            check_bar("attention shapes in an image of any length", len(shapes))
        else:
            check_bar("attention shapes in an image of any length, from a draft", len(shapes))


@pytest.mark.parametrize("block", [None, 5])
@torch.inference_mode()
def test_a_step_is_the_same_operators_again_and_reads_nothing_back(tiny, prompts, draws, drafts, block):
    """So that a captured graph may stand for it: no shape and no plain number of a step depends on how far it is."""
    decoder = _decoder(tiny, block)
    decoder._start(_ids(tiny, prompts), draws, None if block is None else torch.from_numpy(drafts))
    end, seen = decoder.stages[-1], []
    for _ in range(3):
        with _Operators() as operators:
            decoder._step(end)
        assert operators.syncs == 0
        seen.append(operators.calls)
    assert seen[0] == seen[1] == seen[2]


@pytest.mark.parametrize("block", [None, 5])
@torch.inference_mode()
def test_64_steps_are_one_step_a_shape(tiny, prompts, block):
    """As many captured graphs as shapes, whatever the length of the image."""
    random, length = np.random.default_rng(0), 80
    drafts = None if block is None else torch.from_numpy(random.integers(0, 16, (3, length)))
    decoder, seen, syncs = _decoder(tiny, block), defaultdict(set), 0
    decoder._start(_ids(tiny, prompts), torch.from_numpy(random.random((3, 1, length))), drafts)
    for step in range(64):
        filled = step + 1 if block is None else int(decoder.done.max()) - 1 + decoder.width
        end = decoder._find_end(min(filled, decoder.cache.num_slots))
        with _Operators() as operators:
            decoder._step(end)
        seen[end].add(repr(operators.calls))
        syncs += operators.syncs
    assert len(seen) > 1
    most = max(map(len, seen.values()))
    if block is None:
        check_bar("different steps of one shape among 64", most)
        check_bar("waits for the device in 64 steps", syncs)
    else:
        check_bar("different steps of one shape among 64, from a draft", most)
        check_bar("waits for the device in 64 steps, from a draft", syncs)


@torch.inference_mode()
def test_a_compiler_traces_the_whole_step_once_for_64(tiny, prompts):
    """Without C++: what would be compiled is counted, plainly and from a draft, of a sample a prompt."""
    random, length, found = np.random.default_rng(0), 80, []
    for block in (None, 5):
        drafts = None if block is None else torch.from_numpy(random.integers(0, 16, (3, length)))
        decoder = _decoder(tiny, block)
        decoder._start(_ids(tiny, prompts), torch.from_numpy(random.random((3, 1, length))), drafts)
        torch._dynamo.reset()
        counters.clear()
        step = torch.compile(decoder._step, backend="eager", dynamic=False)
        for _ in range(64):
            step(decoder.stages[-1])
        broken, traced = sum(counters["graph_break"].values()), counters["frames"]["total"]
        found.append((counters["stats"]["unique_graphs"], broken, traced - 1))
    torch._dynamo.reset()
    most = [max(column) for column in zip(*found, strict=True)]
    assert min(found)[0] >= 1
    check_bar("graphs of a traced step over 64 of one shape, plain and from a draft", most[0])
    check_bar("breaks of a traced step over 64 of one shape, plain and from a draft", most[1])
    check_bar("retracings of a traced step over 64 of one shape, plain and from a draft", most[2])


@torch.inference_mode()
def test_an_operator_that_differs_or_reads_back_would_be_seen():
    with _Operators() as operators:
        values = torch.arange(4)
        int(values.max())
        values[values > 1]
        values[:2]
        values[:3]
    assert operators.syncs == 2
    assert operators.calls[-1] != operators.calls[-2]


@pytest.mark.parametrize("block", [None, 5])
def test_samples_that_share_a_prompt_are_those_that_do_not(tiny, prompts, draws, drafts, block, monkeypatch):
    shared = _reference(tiny, prompts, draws, drafts, block)
    monkeypatch.setattr(image_decoder, "SHARING_ROWS", 1000)
    assert np.array_equal(_reference(tiny, prompts, draws, drafts, block), shared)


@torch.inference_mode()
def test_a_late_count_of_finished_rows_changes_nothing(tiny, prompts, draws, drafts, monkeypatch):
    """A GPU is asked how far it is only when it is passes further."""

    class Late(image_decoder._Progress):
        def __init__(self, done):
            self.waiting, self.known = deque([done.clone()]), np.zeros(len(done), np.int64)

        def note(self, done):
            self.waiting.append(done.clone())

        def read(self, done):
            if len(self.waiting) > image_decoder.LAG:
                self.known = self.waiting.popleft().numpy()
            return self.known, len(self.waiting)

    wanted = sample_images_from_draft(tiny.lm, tiny.layout, prompts, drafts, draws, block=4)
    monkeypatch.setattr(image_decoder, "_Progress", Late)
    monkeypatch.setattr(ImageDecoder, "_drop_complete_rows", lambda self, done: done)
    found = _decoder(tiny, 4).decode(_ids(tiny, prompts), draws, torch.from_numpy(drafts))
    for name in ("codes", "passes", "accepted"):
        assert np.array_equal(getattr(found, name), getattr(wanted, name))
    assert found.forwards == wanted.forwards


def _prefilled(lm, ids) -> DynamicCache:
    return lm.model(input_ids=ids, past_key_values=DynamicCache(config=lm.config), use_cache=True).past_key_values


@pytest.mark.parametrize("samples", [1, 2])
@torch.inference_mode()
def test_the_slots_hold_what_the_librarys_cache_does(tiny, grids, samples):
    ids = torch.tensor([tiny.builder.forward_prompt(grids[row], "open the cup") for row in range(2)])
    theirs, ours = _prefilled(tiny.lm, ids), SlotCache(ids.shape[1], samples, 3)
    theirs.batch_repeat_interleave(samples)
    ours.fill(_prefilled(tiny.lm, ids))
    before = tiny.lm.config._attn_implementation
    for step in range(3):
        token = torch.arange(2 * samples)[:, None] + 5 + step
        expected = tiny.lm.model(input_ids=token, past_key_values=theirs, use_cache=True).last_hidden_state
        for end, exact in ((step + 1, True), (3, False)):  # writing twice at one slot is writing once
            mask = ours.aim(torch.tensor([[step]]), end, torch.float32, exact)
            assert (mask is None) is exact
            with shared_prompts(tiny.lm, ours) as options:
                found = tiny.lm.model(
                    input_ids=token,
                    attention_mask=mask,
                    position_ids=torch.tensor([[ids.shape[1] + step]]),
                    past_key_values=ours,
                    use_cache=True,
                    **options,
                ).last_hidden_state
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert tiny.lm.config._attn_implementation == before


def test_eight_samples_keep_their_prompt_once():
    """At the papers' length: 1,026 tokens before 1,024 codes, 4.5 times one sample's keys and values instead of 8."""
    sizes = []
    for samples in (1, 8):
        states = torch.empty(1, 32, 1026, 128, device="meta")
        cache = SlotCache(1026, samples, 1024)
        cache.fill(SimpleNamespace(layers=[SimpleNamespace(keys=states, values=states)]))
        parts = cache.joint if samples == 1 else cache.prompts + cache.own
        sizes.append(sum(part.numel() for pair in parts for part in pair))
    assert sizes[0] == 2 * 32 * 128 * (1026 + 1024)
    check_bar("keys and values of K = 8 over K = 1", sizes[1] / sizes[0])


class _Traffic(TorchDispatchMode):
    """Adds up the bytes that operators read and write, as if nothing stayed in a cache; views move nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func._schema.name.split("::")[1]
        found = func(*args, **kwargs)
        kwargs.pop("out", None)
        read, written = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)] for tree in ((args, kwargs), found)
        )
        sources = {tensor.untyped_storage()._cdata for tensor in read}
        view = not name.endswith("_") and all(part.untyped_storage()._cdata in sources for part in written)
        if name in ("embedding", "gather", "index_select", "index"):  # do not read the whole table
            read = written
        elif name in ("index_copy_", "scatter_", "index_put_"):  # nor write it
            read, written = [read[-1]], [read[-1]]
        self.bytes += 0 if view else sum(part.numel() * part.element_size() for part in [*read, *written])
        return found


def _step_bytes(samples: int) -> float:
    """Return the mean bytes of a decoded code of Chameleon-7B's shape, of `samples` images at once, in bfloat16."""
    layout = TokenLayout(0, 1, 2, 8196, 8197, 8198, 4, 8192)
    with torch.device("meta"):
        config = tiny_config(65536, layout, 8199, 4096, 11008, 4, 32, 4096)
        lm = ChameleonLM._from_config(config, attn_implementation="sdpa").to(torch.bfloat16).eval()
        decoder = ImageDecoder(lm, layout, 1.0, 1.0, staged=True)
        draws = torch.empty(1, samples, 1024, dtype=torch.float64)
        decoder._start(torch.empty(1, 1032, dtype=torch.int64), draws, None)
        spent = []
        for end in decoder.stages:
            with _Traffic() as traffic:
                decoder._step(end)
            spent.append(traffic.bytes)
    return sum(spent) / len(spent)


@torch.inference_mode()
def test_eight_samples_move_little_more_than_one():
    """What a decoded code moves is the weights; a prompt kept eight times would make it 1.4 times as much."""
    one, eight = (_step_bytes(samples) for samples in (1, 8))
    weights = 2 * (4 * (4 * 4096**2 + 3 * 4096 * 11008) + 8192 * 4096)
    assert weights < one < 1.12 * weights
    check_bar("traffic of K = 8 over K = 1", eight / one)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
@torch.inference_mode()
def test_texts_of_one_shape_are_the_same_and_rarely_asked_for(tiny, grids, temperature, monkeypatch):
    layout, builder = tiny.layout, tiny.builder
    questions = [[*builder.inverse_prompt(grids[row], grids[row + 1])[:-1], *[30] * row, 6] for row in range(4)]
    numbers = uniforms(4, 12, torch.Generator().manual_seed(0))
    arguments = tiny.lm, layout, questions, 12, temperature, numbers
    wanted, shapes, update = _decode_text(*arguments), set(), SlotCache.update
    monkeypatch.setattr(SlotCache, "update", lambda *args: shapes.add(update(*args)[0].shape) or update(*args))
    with _Operators() as operators:
        found = _decode_text(*arguments, staged=True)
    assert found[0] == wanted[0]
    assert found[1] == pytest.approx(wanted[1], abs=1e-5)
    assert len(shapes) == 1
    assert operators.syncs <= 12 / 4
    if temperature == 0:
        check_bar("waits for the device a token of text", operators.syncs / 12)
