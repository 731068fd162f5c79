"""What of the environment reaches the arithmetic, in one place: `visdyn arithmetic [COMMAND ...]`.

torch, oneDNN, MKL, numpy, OpenBLAS and OpenCV each choose their kernels by the processor, and other kernels add in
another order. `PORTABLE=1` (`PORTABLE=1 make repro`, `PORTABLE=1 dvc repro`) holds them all at AVX2 with FMA, which
every x86 processor of the last ten years has, and MKL at the one branch that is promised to give equal bits on
processors of all makers. Unset, each library takes what is fastest here. Either way a shell variable that would
change results without being asked for is left out of a stage, and that is said.

Every process of a stage (its kernel, workers, trainings) inherits what the runner settles here before it starts them;
the tests settle it before they import torch. Without arguments the module prints what a stage gets; with a command it
runs it in that environment.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from visdyn.pipeline.errors import StageError

SWITCHES = ("VISDYN_PORTABLE", "PORTABLE")  # the first that is set decides
ON, OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")

# One instruction set for all. The names are those of the versions in requirements.lock; tests/test_arithmetic.py asks
# each library whether it listened.
PORTABLE = {
    "ATEN_CPU_CAPABILITY": "avx2",  # torch's own loops: softmax, norms, attention, gelu
    "ONEDNN_MAX_CPU_ISA": "AVX2",  # convolutions
    "MKL_CBWR": "COMPATIBLE",  # matrix products, exp: oneMKL takes any other branch on Intel's processors alone
    "NPY_ENABLE_CPU_FEATURES": "X86_V3",  # numpy's loops: exp, log, powers have other bits with AVX-512
    "OPENBLAS_CORETYPE": "Haswell",  # products and decompositions of numpy and scipy
    "OPENCV_CPU_DISABLE": "AVX512-SKX",
    "OPENCV_IPP": "avx2",  # the vendor's functions inside OpenCV: resizing, optical flow
}
# Further variables by which kernels are chosen: with PORTABLE they go; else they stay (one machine can so imitate
# another) and `reports/machine.json` names them.
CHOOSE_KERNELS = (*PORTABLE, "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "MKL_DEBUG_CPU_TYPE",
                  "NPY_DISABLE_CPU_FEATURES", "MKL_DISABLE_FAST_MM", "MKL_NUM_STRIPES")  # fmt: skip
# Asked for on purpose, by whoever sets them, and named in `reports/machine.json`.
RECORDED = ("CUBLAS_WORKSPACE_CONFIG", "FLASH_ATTENTION_DETERMINISTIC", "GLIBC_TUNABLES")
# What changes results behind params.yaml and hardware/*.yaml; patterns, each with what it would do.
LEFT_OUT = {
    "ACCELERATE_*": "precision, devices, gradient accumulation of every training",
    "FSDP_*": "sharding",
    "PARALLELISM_CONFIG_*": "ranks and sharding",
    "XLA_*_BF16": "precision",
    "NVIDIA_TF32_OVERRIDE": "precision of products on a GPU",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "precision of products on a GPU",
    "ONEDNN_DEFAULT_FPMATH_MODE": "precision of convolutions",
    "DNNL_DEFAULT_FPMATH_MODE": "precision of convolutions",
    "TORCH_MKLDNN_MATMUL_*": "who computes products",
    "TORCH_BLAS_PREFER_*": "who computes products",
    "TORCH_LINALG_PREFER_*": "who computes decompositions",
    "TORCH_CUDNN_*": "who computes convolutions",
    "PYTORCH_TUNABLEOP_*": "kernels chosen by the clock",
    "USE_HUB_KERNELS": "kernels from the Hugging Face hub",
    "DIFFUSERS_ATTN_*": "who computes attention",
    "TRANSFORMERS_SDPA_FORCE_GQA": "who computes attention",
    "MKL_DOMAIN_NUM_THREADS": "threads, which runtime.threads says",
    "RANK": "a place among ranks that the launcher gives",
    "*_RANK": "a place among ranks that the launcher gives",
    "WORLD_SIZE": "ranks",
    "*_WORLD_SIZE": "ranks",
    "OMPI_COMM_WORLD_*": "ranks",
    "PMI_*": "ranks",
    "MASTER_ADDR": "ranks",
    "MASTER_PORT": "ranks",
    "TORCHELASTIC_*": "ranks",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def is_portable(environment: Mapping[str, str] = os.environ) -> bool:
    """Tell whether the same bytes on every x86 machine are asked for.

    Raises:
        StageError: the switch is neither on nor off.
    """
    name = next((name for name in SWITCHES if name in environment), None)
    value = environment[name].strip().lower() if name else ""
    if value not in ON + OFF:
        raise StageError(f"{name}={environment[name]!r} is neither on nor off; set it to 1 or 0")
    return value in ON


def settle(environment: Mapping[str, str], threads: int | None = 1) -> tuple[dict[str, str], list[str]]:
    """Return the environment in which results are computed, and what is to be said of it.

    Args:
        environment: the shell's.
        threads: of each process; None leaves them to the environment.

    Returns:
        A new environment, and a sentence for each kind of variable that gave way.

    Raises:
        StageError: PORTABLE on a processor that cannot do it, or a switch that is neither on nor off.
    """
    portable = is_portable(environment)
    left_out = [name for name in environment if any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)]
    gave_way = [name for name in CHOOSE_KERNELS if name in environment and environment[name] != PORTABLE.get(name)]
    settled = {name: value for name, value in environment.items() if name not in left_out}
    said = []
    if left_out:
        named = ", ".join(f"{name}={environment[name]}" for name in sorted(left_out))
        said.append(f"left out of the shell's environment, for it would change results: {named}")
    if portable:
        _require_avx2()
        settled = {name: value for name, value in settled.items() if name not in CHOOSE_KERNELS} | PORTABLE
        if gave_way:
            named = ", ".join(f"{name}={environment[name]}" for name in gave_way)
            said.append(f"portable: of the shell's environment these give way: {named}")
    settled |= dict.fromkeys(THREADS, str(threads)) if threads else {}
    return settled | ({SWITCHES[0]: "1"} if portable else {}), said


def apply(threads: int | None = 1) -> list[str]:
    """Settle this process's own environment, before torch or numpy are imported; return what is to be said.

    Raises:
        StageError: as `settle`; or PORTABLE, and a library has already chosen its kernels.
    """
    settled, said = settle(os.environ, threads)
    early = [name for name in ("torch", "numpy", "cv2") if name in sys.modules]
    if early and any(settled.get(name) != os.environ.get(name) for name in CHOOSE_KERNELS):
        raise StageError(f"{', '.join(early)} was imported before the arithmetic was settled; call `apply` first")
    for name in os.environ.keys() - settled.keys():
        del os.environ[name]
    os.environ.update(settled)
    return said


def read_settings(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the variables that choose kernels or determinism, where they are set."""
    return {name: environment[name] for name in (*CHOOSE_KERNELS, *RECORDED) if name in environment}


def read_flags() -> tuple[str, frozenset[str]]:
    """Return the processor's name and its flags as Linux tells them; no flags elsewhere."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.is_file() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    name = facts.get("model name") or platform.processor() or platform.machine()
    return name, frozenset((facts.get("flags") or facts.get("Features") or "").split())


def _require_avx2() -> None:
    name, flags = read_flags()
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    if not x86 or (flags and not {"avx2", "fma"} <= flags):
        raise StageError(f"PORTABLE needs an x86 processor with AVX2 and FMA, which {name} is not; unset it")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what a stage's environment gets, or run a command in it."""
    parser = argparse.ArgumentParser(prog="visdyn arithmetic", description=main.__doc__)
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what is run; without it the variables are printed")
    arguments = parser.parse_args(arguments).command
    try:
        settled, said = settle(os.environ, 1 if is_portable() else None)
    except StageError as error:
        print(error, file=sys.stderr)
        return 1
    for line in said:
        print(line, file=sys.stderr)
    if arguments:
        os.execvpe(arguments[0], list(arguments), settled)
    print("portable" if is_portable(settled) else "native: each library takes the fastest kernels of this processor")
    for name, value in read_settings(settled).items():
        print(f"{name}={value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
