"""One GPU, ten minutes: what counts on a CPU leave open, the newest doubts first.

`python benchmarks/ten_minutes.py --device cuda --size 7b > result.txt` on a GPU of 80 GB: what a new key length costs
attention, with cuDNN and without; milliseconds of a decoded code for K = 1 and 8, launched by Python, as one CUDA graph
a step, and from a draft; a LoRA step with activations kept, recomputed and compiled; BAGEL's edit and step; last, for
compiling takes minutes, decoding with compiled layers; peak memory of each. Weights are random, shapes the public
models'. On a GPU each part is a process of its own, and each line is written as soon as it is known: a part that fails
says why, one that is killed or that `--seconds` leaves no time for is named, and neither takes another's numbers along.
`--parts lora bagel` runs some; two calls of five minutes on a warm machine are as good as one of ten. Without options
tiny models on one core show that it runs, no more.
"""

from __future__ import annotations

import argparse
import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial

import bagel_editing
import numpy as np
import torch
import torch.nn.functional as F
import training_step
from random_models import SIZES, Size, peak, random_model, seconds, title
from speculative import PROMPT_TEXT, LikesTheSource

from visdyn.models.bagel import SamplerSettings
from visdyn.models.token.decoding import uniforms
from visdyn.models.token.image_decoder import BLOCK, ImageDecoder
from visdyn.models.token.unified import UnifiedModel
from visdyn.pipeline.processes import end_with
from visdyn.training.dynamics import add_adapter
from visdyn.training.engine import compiled
from visdyn.training.engine.sharding import widen_trained

TINY = Size(32, 2, 2, 64, 0, 16, 4, torch.float32)
CODES = {"tiny": 8, "small": 16, "7b": 128}  # of an image that are decoded where a code is slow; by graphs, all
KEYS = {"tiny": 16, "small": 64, "7b": 1026}  # keys before the first code
SHARE = 0.75  # the draft's probability, which the embedded FDM's is about
NEW_LENGTHS = 24


class LaunchedDecoder(ImageDecoder):
    """The decoder of images with every step launched from Python, also on a GPU."""

    def _advance(self, end: int) -> None:
        self._step(end)


class CompiledDecoder(ImageDecoder):
    """The decoder of compiled layers: of one shape, for each is compiled in each layer, and not for the prompt's."""

    def _start(self, *inputs) -> None:
        with torch.compiler.set_stance("force_eager"):
            super()._start(*inputs)

    def _find_end(self, filled: int) -> int:
        return self.stages[-1]


def measure_rates(options) -> None:
    """Print the rates that all else is read against: products, memory, launches."""
    size, device = SIZES[options.size], options.device
    rate = training_step.product_rate(size.dtype, device)
    source = torch.empty(2**28 if device != "cpu" else 2**20, dtype=torch.uint8, device=device)
    target, small = torch.empty_like(source), torch.zeros(1, device=device)
    target.copy_(source)
    copied, _ = seconds(lambda: [target.copy_(source) for _ in range(10)], device)
    launched, _ = seconds(lambda: [small.add_(1) for _ in range(1000)], device)
    print(f"a large product {rate / 1e12:.2f} TFLOP/s; memory {20 * source.numel() / copied / 1e12:.3f} TB/s read and "
          f"written; a small kernel {1e3 * launched:.1f} us")  # fmt: skip


def measure_plans(options) -> None:
    """Print what attention costs at key lengths that it has not met, and at the same ones again."""
    size, device = SIZES[options.size], options.device
    shape = 1, size.heads, KEYS[options.size] + 4 * NEW_LENGTHS, size.hidden // size.heads
    query = torch.randn(*shape[:2], 1, shape[3], device=device, dtype=size.dtype)
    keys, values = (torch.randn(shape, device=device, dtype=size.dtype) for _ in range(2))

    def attend(first: int) -> float:
        def call() -> None:
            for length in range(first, first + NEW_LENGTHS):
                F.scaled_dot_product_attention(query, keys[:, :, :length], values[:, :, :length])

        return 1e3 * seconds(call, device)[0] / NEW_LENGTHS

    for place, cudnn in enumerate((True, False)):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        first = KEYS[options.size] + 2 * place * NEW_LENGTHS
        F.scaled_dot_product_attention(query, keys, values)
        new, again = attend(first), attend(first)
        print(f"attention, {'torch chooses' if cudnn else 'without cuDNN':13}: {new:8.3f} ms a new key length, "
              f"{again:.3f} ms one that was met")  # fmt: skip
    torch.backends.cuda.enable_cudnn_sdp(True)


def measure_decoding(options) -> None:
    """Print milliseconds of a decoded code launched by Python, by graphs, and from a draft."""
    model = random_model(SIZES[options.size], options.device)
    whole = SIZES[options.size].side ** 2
    time_decoding("a graph a step", ImageDecoder, model, whole, options)
    time_decoding("from a draft, a graph a step", ImageDecoder, model, whole, options, min(BLOCK, whole))
    time_decoding("launched", LaunchedDecoder, model, CODES[options.size], options)


def measure_compiled_decoding(options) -> None:
    """Print milliseconds of a decoded code of compiled layers; compiling takes minutes."""
    model = random_model(SIZES[options.size], options.device)
    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 2048
    for layer in model.lm.model.layers:
        layer.compile(backend="inductor" if options.device != "cpu" else "eager", dynamic=False)
    time_decoding("compiled layers, a graph a step", CompiledDecoder, model, CODES[options.size], options)


def time_decoding(
    name: str, kind: type[ImageDecoder], model: UnifiedModel, length: int, options, block: int | None = None
) -> None:
    """Decode `length` codes of an image, for one sample and for eight of one prompt, twice, and time the second."""
    device, layout, whole = options.device, model.layout, SIZES[options.size].side ** 2
    source = np.random.default_rng(0).integers(0, layout.num_image_codes, whole)
    codes = (source + layout.image_offset).tolist()
    prompt = [layout.bos] * PROMPT_TEXT + [layout.begin_of_image, *codes, layout.end_of_image, layout.begin_of_image]
    draft = None if block is None else torch.from_numpy(source[None, :length])
    lm = model.lm if block is None else LikesTheSource(model.lm, layout, source[:length], len(prompt) - 1, SHARE)
    single = None  # seconds of K = 1
    for k in (1, 8):
        with told(f"decoding, {name}, K = {k}"), torch.inference_mode():
            decoder = kind(lm, layout, 1.0, 1.0, block, staged=True)
            draws = uniforms(k, length, torch.Generator().manual_seed(0))[None]
            decode = partial(decoder.decode, torch.tensor([prompt]), draws, draft)
            decode()  # warm, and captured
            peak(device)
            spent, found = seconds(decode, device)
            ratio = f", {spent / single:.2f} times K = 1" if single else ""
            print(f"decoding, {name:31} K = {k}: {1e3 * spent / length:8.3f} ms a code, {spent:7.2f} s for {length} of "
                  f"an image's {whole} codes, {length / found.forwards:5.2f} codes a pass{ratio}"
                  f"{peak(device)}")  # fmt: skip
            single = single or spent


def measure_lora(options) -> None:
    """Print a LoRA step's time, share of the product's rate and memory; the last cases compile the layers."""
    size, device = SIZES[options.size], options.device
    model = random_model(size, device)
    add_adapter(model, "random", training_step.LORA)
    widen_trained(model.lm)
    model.lm.train()
    if device == "cpu":
        compiled.BACKEND = "eager"  # no compiler is needed to see that it runs
    batches = (1, 4, 8) if device != "cpu" else (1, 2)
    rows = training_step.sequences(model, size.side, max(batches) * options.steps)
    rate, flops = training_step.product_rate(size.dtype, device), training_step.model_flops(model, rows)
    length = len(rows[0].prompt) + len(rows[0].completion)
    ways = {"kept": {}, "recomputed": {"activation_checkpointing": True}, "compiled": {"compile_layers": True}}
    for name, hardware in ways.items():
        for batch in batches:
            with told(f"LoRA step, {name}, batch {batch}"):
                peak(device)
                spent = training_step.measure(model, rows, batch, hardware, options)
                print(f"LoRA step, activations {name:10} batch {batch}: {spent:7.3f} s, {length * batch / spent:7.0f} "
                      f"tokens/s, {flops * batch / spent / rate:.0%} of the product's rate"
                      f"{peak(device)}")  # fmt: skip
        if name == "recomputed":
            model.lm.activation_checkpointing_disable()


def measure_bagel(options) -> None:
    """Print an edit's time, from latents to latents, and a LoRA step's."""
    case, device = bagel_editing.CASES[options.size], options.device
    model = bagel_editing.random_bagel(case, device)
    inputs = bagel_editing.inputs_of(model, bagel_editing.sources(case, 1)[0])
    bagel_editing.edit(model, settings=SamplerSettings(num_timesteps=2), **inputs)  # warm up
    peak(device)
    settings = SamplerSettings(num_timesteps=case.timesteps)
    spent, _ = seconds(lambda: bagel_editing.edit(model, settings=settings, **inputs), device)
    print(f"BAGEL, an edit of {case.timesteps - 1} evaluations: {spent:6.2f} s{peak(device)}")
    bagel_editing.train_step(model, case, device)


PARTS: dict[str, Callable] = {
    "rates": measure_rates,
    "plans": measure_plans,
    "decode": measure_decoding,
    "lora": measure_lora,
    "bagel": measure_bagel,
    "compiled": measure_compiled_decoding,
}
TRAINING = ("lora", "bagel")


@contextmanager
def told(name: str) -> Iterator[None]:
    """Say why a case has no number, and let the next one begin; what it had on the GPU is freed before that."""
    gc.collect()  # a failed training lies in cycles
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        yield
    except Exception as error:  # a benchmark's machine is rented: the other numbers must not be lost
        print(f"{name}: no number, {type(error).__name__}: {' '.join(str(error).split())[:200]}")


def run_apart(name: str, options, left: float) -> None:
    """Run a part in a process of its own for `left` seconds at most: an error of CUDA leaves its process no GPU."""
    command = [sys.executable, __file__, "--parts", name, "--size", options.size, "--device", options.device,
               "--steps", str(options.steps), "--within", str(os.getpid())]  # fmt: skip
    # Activations of a step fill the memory to a tenth: its pieces must not be of fixed sizes.
    allocator = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"} if name in TRAINING else {}
    process = subprocess.Popen(command, env={**allocator, **os.environ}, start_new_session=True)
    try:
        if code := process.wait(left):
            print(f"{name}: its process ended with {code}; what it had measured stands above")
    except subprocess.TimeoutExpired:
        print(f"{name}: cut off, {options.seconds:g} seconds are over; what it had measured stands above")
    finally:
        with suppress(ProcessLookupError):  # compilers too, which are processes of the part's
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def main(arguments: list[str] | None = None) -> None:
    """Run the parts that there is time for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=sorted(CODES), default="tiny", help="7b is the public models' shape, in bf16")
    parser.add_argument("--device", default="cpu", help="cpu or cuda; 7b needs a GPU of 80 GB")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=570, help="after which nothing of it runs on a GPU")
    parser.add_argument("--steps", type=int, default=5, help="of training, the first two left out")
    parser.add_argument("--apart", action="store_true", help="a process for each part also on a CPU")
    parser.add_argument("--within", type=int, help=argparse.SUPPRESS)  # the process that this one is a part of
    options = parser.parse_args(arguments)
    if options.within:
        end_with(options.within)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(line_buffering=True)  # what is known is written, whatever ends the process
    SIZES.setdefault("tiny", TINY)
    torch.set_num_threads(1)
    began = time.monotonic()
    if not options.within:
        print(title("ten minutes", options))
    for name in options.parts:
        part = time.monotonic()
        left = options.seconds - (part - began)
        if left < 0:
            print(f"{name}: not begun, {options.seconds:g} seconds are over")
        elif (options.apart or options.device != "cpu") and not options.within:
            run_apart(name, options, left)
            print(f"({name}: {time.monotonic() - part:.0f} s)")
        else:
            with told(name):
                PARTS[name](options)


if __name__ == "__main__":
    main()
