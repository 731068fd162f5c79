"""What of the environment reaches the science, in one place: `visdyn arithmetic [COMMAND ...]`.

A stage gets what `PASSED` lists (paths, the hub, proxies, GPUs, the cluster), the variables that params.yaml names
(keys, `$VISDYN_DATA`) and those that the user names in VISDYN_PASS; then what `SET` says, the same on every machine.
All else of the shell stays outside, known or not. `LEFT_OUT` never passes, not even by name.

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
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
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
    "PJRT_DEVICE": "device",
    "DS_ACCELERATOR": "device, which hardware/*.yaml says",
    "TORCH_FORCE_*": "how weights are loaded",
    "NPY_PROMOTION_STATE": "types of numpy's results",
    "PANDAS_*": "types of pandas' columns",
    "OPENCV_FFMPEG_*": "how videos are decoded",
    "OPENCV_VIDEOIO_*": "how videos are decoded",
    "OPENCV_IO_*": "which images are decoded",
    "MPI_LOCAL*": "ranks",
    "PMIX_*": "ranks",
    "RANK": "a place among ranks that the launcher gives",
    "*_RANK": "a place among ranks that the launcher gives",
    "WORLD_SIZE": "ranks",
    "*_WORLD_SIZE": "ranks",
    "OMPI_*": "ranks",
    "PMI_*": "ranks",
    "MASTER_ADDR": "ranks",
    "MASTER_PORT": "ranks",
    "TORCHELASTIC_*": "ranks",
}
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# What may reach a stage, and what for; patterns.
PASSED = {
    "PATH": "programs",
    "LD_LIBRARY_PATH": "libraries of the machine",
    "LD_PRELOAD": "libraries of the machine",
    "HOME": "caches of the user",
    "USER": "name of the user",
    "LOGNAME": "name of the user",
    "SHELL": "programs that ask for it",
    "TERM": "the terminal of progress bars",
    "TMPDIR": "scratch files; a long one gives way",
    "XDG_CACHE_HOME": "caches of the user",
    "XDG_DATA_HOME": "caches of the user",
    "XDG_RUNTIME_DIR": "sockets of the user",
    "DVC_*": "the DVC that runs the stage",
    "VISDYN_*": "the kit's own: root, hardware, data, portable kernels, hosts that keys may go to",
    "PORTABLE": "portable kernels",
    "HF_*": "the hub: folder, token, offline",
    "HUGGINGFACE_*": "the hub",
    "HUGGING_FACE_*": "the hub",
    "TRANSFORMERS_CACHE": "the hub",
    "TRANSFORMERS_OFFLINE": "the hub",
    "TORCH_HOME": "weights that torch keeps",
    "HTTP_PROXY": "the way out",
    "HTTPS_PROXY": "the way out",
    "ALL_PROXY": "the way out",
    "NO_PROXY": "the way out; this machine's own addresses are added",
    "http_proxy": "the way out",
    "https_proxy": "the way out",
    "all_proxy": "the way out",
    "no_proxy": "the way out",
    "SSL_CERT_*": "the way out",
    "REQUESTS_CA_BUNDLE": "the way out",
    "CURL_CA_BUNDLE": "the way out",
    "SSH_*": "other nodes",
    "PDSH_*": "other nodes",
    "KRB5*": "other nodes",
    "CUDA_*": "GPUs",
    "NVIDIA_*": "GPUs",
    "ROCR_*": "GPUs",
    "HIP_*": "GPUs",
    "PYTORCH_ALLOC_CONF": "memory of GPUs",
    "PYTORCH_CUDA_ALLOC_CONF": "memory of GPUs",
    "TORCH_CUDA_ARCH_LIST": "building DeepSpeed's kernels",
    "TORCH_EXTENSIONS_DIR": "building DeepSpeed's kernels",
    "TRITON_*": "building kernels",
    "MAX_JOBS": "building kernels",
    "CC": "building kernels",
    "CXX": "building kernels",
    "CPATH": "building kernels",
    "LIBRARY_PATH": "building kernels",
    "NCCL_*": "the network between GPUs",
    "TORCH_NCCL_*": "the network between GPUs",
    "GLOO_*": "the network between nodes",
    "UCX_*": "the network between nodes",
    "FI_*": "the network between nodes",
    "RAY_*": "the cluster",
    "SLURM_*": "the cluster",
    "CONDA_PREFIX": "where the environment lies",
    "VIRTUAL_ENV": "where the environment lies",
    "OMP_NUM_THREADS": "threads, where none are asked for",
    "MKL_NUM_THREADS": "threads, where none are asked for",
    "OPENBLAS_NUM_THREADS": "threads, where none are asked for",
} | dict.fromkeys((*CHOOSE_KERNELS, *RECORDED), "kernels, named in reports/machine.json")  # fmt: skip
# What every stage has, the same on every machine.
SET = {
    "LC_ALL": "C.UTF-8",  # text, and the order and case of letters
    "PYTHONUTF8": "1",  # files too, also where that locale is not installed
    "PYTHONHASHSEED": "0",
    "PYTHONNOUSERSITE": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
    "TQDM_DISABLE": "1",  # a bar's speed would change the executed notebook's hash
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",  # transformers' too, whose widgets have random names
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
PASS = "VISDYN_PASS"  # further variables, by commas, that the user lets through
LOOPBACK = ("localhost", "127.0.0.1", "::1")
LONGEST_TMPDIR = 32  # bytes: a socket's path has 107, of which the kernel's connection takes 73


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


def left_out(environment: Mapping[str, str]) -> list[str]:
    """Return the variables that never reach a computation."""
    return [name for name in environment if any(fnmatchcase(name, pattern) for pattern in LEFT_OUT)]


def isolate(environment: Mapping[str, str], named: Iterable[str] = ()) -> tuple[dict[str, str], list[str]]:
    """Return what of an environment may reach a stage, and what is to be said of it.

    Args:
        environment: as `settle` returns it.
        named: further variables that may pass: those that params.yaml names (`named_variables`).

    Raises:
        StageError: there is no short, writable folder for scratch files.
    """
    patterns = [*PASSED, *filter(None, map(str.strip, environment.get(PASS, "").split(",")))]
    never, named = set(left_out(environment)), set(named)
    kept = {name: value for name, value in environment.items() if name not in never
            and (name in named or any(fnmatchcase(name, pattern) for pattern in patterns))}  # fmt: skip
    said, folder = [], _short_tmpdir(environment)
    if (given := environment.get("TMPDIR")) and given != folder:
        said.append(f"TMPDIR={given} is too long for sockets (over {LONGEST_TMPDIR} bytes) or not writable: {folder}")
    return kept | SET | {"TMPDIR": folder} | _without_loopback(kept), said


def named_variables(values: object) -> set[str]:
    """Return the environment variables that plain values of params.yaml name: `$NAME` in a text, and `key_variable`."""
    if isinstance(values, dict):
        keys = {values["key_variable"]} if isinstance(values.get("key_variable"), str) else set()
        return keys.union(*map(named_variables, values.values())) - {""}
    if isinstance(values, list | tuple):
        return set().union(*map(named_variables, values))
    return set(re.findall(r"\$\{?([A-Za-z_]\w*)", values)) if isinstance(values, str) else set()


def _without_loopback(environment: Mapping[str, str]) -> dict[str, str]:
    """Keep proxies from what is on this machine: a local judge, Ray; both spellings, for each library reads its own."""
    given = [environment.get(name, "") for name in ("no_proxy", "NO_PROXY")]
    hosts = [host.strip() for text in given for host in text.split(",") if host.strip()]
    joined = ",".join(dict.fromkeys([*hosts, *LOOPBACK]))
    return {"no_proxy": joined, "NO_PROXY": joined}


def _short_tmpdir(environment: Mapping[str, str]) -> str:
    for folder in filter(None, (environment.get("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm")):
        short = len(os.fsencode(folder)) <= LONGEST_TMPDIR
        if short and Path(folder).is_absolute() and Path(folder).is_dir() and os.access(folder, os.W_OK | os.X_OK):
            return folder
    raise StageError(
        f"no folder for scratch files: neither TMPDIR nor /tmp is writable and at most {LONGEST_TMPDIR} bytes long; "
        "set TMPDIR to a short one"
    )


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
    never = left_out(environment)
    gave_way = [name for name in CHOOSE_KERNELS if name in environment and environment[name] != PORTABLE.get(name)]
    settled = {name: value for name, value in environment.items() if name not in never}
    said = []
    if never:
        named = ", ".join(f"{name}={environment[name]}" for name in sorted(never))
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
