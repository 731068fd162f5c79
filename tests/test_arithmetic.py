"""What of the environment reaches the arithmetic: portable kernels, foreign variables, and who listens to which."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import leave_out_foreign
from foreign_environment import FOREIGN

from visdyn.pipeline import arithmetic
from visdyn.pipeline.arithmetic import (
    CHOOSE_KERNELS,
    PORTABLE,
    StageError,
    apply,
    is_portable,
    isolate,
    named_variables,
    settle,
)
from visdyn.pipeline.processes import kernel_prefix

# Shells of two other machines, as far as one can imitate them.
OLD = {"ATEN_CPU_CAPABILITY": "default", "ONEDNN_MAX_CPU_ISA": "SSE41", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
       "NPY_DISABLE_CPU_FEATURES": "X86_V3", "OPENBLAS_CORETYPE": "Nehalem", "OPENCV_CPU_DISABLE": "AVX2"}  # fmt: skip
COMPATIBLE = {"MKL_CBWR": "COMPATIBLE", "OPENCV_IPP": "sse42"}


def shell(**variables: str) -> dict[str, str]:
    """This process's environment without what chooses kernels, and with the given variables."""
    chosen = {*CHOOSE_KERNELS, *arithmetic.SWITCHES}
    return {name: value for name, value in os.environ.items() if name not in chosen} | variables


def output(*command: str, **variables: str) -> str:
    found = subprocess.run([sys.executable, *command], env=shell(**variables), capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    return found.stdout


def fingerprint(**variables: str) -> dict:
    return json.loads(output("-m", "visdyn.pipeline.fingerprint", **variables))


def losses(**variables: str) -> str:
    script = str(Path(__file__).parent / "tiny_training.py")
    return output("-m", "visdyn.pipeline.arithmetic", sys.executable, script, **variables)


def test_portable_kernels_give_the_same_bytes_whatever_the_shell_says():
    here, old, compatible = (fingerprint(PORTABLE="1", **other) for other in ({}, OLD, COMPATIBLE))
    assert here["kernels"] == old["kernels"] == compatible["kernels"]
    assert here["portable"]
    assert here["settings"] == old["settings"] == PORTABLE
    trained = {losses(PORTABLE="1", **other) for other in ({}, OLD, COMPATIBLE)}
    assert len(trained) == 1
    assert len(trained.pop().strip()) == 8 * 8  # eight losses of four bytes


def test_native_kernels_follow_the_shell():
    here, old = fingerprint(), fingerprint(**OLD)
    assert not here["portable"]
    assert old["settings"] == OLD
    differ = {name for name, value in here["kernels"].items() if old["kernels"][name] != value}
    assert {"softmax", "conv", "training", "numpy dot", "opencv flow"} <= differ
    assert losses() != losses(**OLD)


def test_every_library_has_listened():
    """A new version may rename its instruction sets, and then ignores the old names."""
    script = """
import json, cv2, torch
from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__
print(json.dumps({"torch": torch.backends.cpu.get_cpu_capability(),
                  "numpy": [name for name in __cpu_dispatch__ if __cpu_features__.get(name)],
                  "opencv": cv2.getCPUFeaturesLine(), "ipp": cv2.ipp.getIppVersion()}))
"""
    found = json.loads(output("-m", "visdyn.pipeline.arithmetic", sys.executable, "-c", script, PORTABLE="1"))
    assert found["torch"] == "AVX2"
    assert found["numpy"] == ["X86_V3"]
    assert "*AVX2 " in found["opencv"]
    assert "*AVX512-SKX?" in found["opencv"]  # the mark of what is held back, or not there
    assert "AVX2" in found["ipp"]


def test_mkl_gives_one_branch_whatever_it_finds():
    # As on another processor: the variable is set past `settle`, which would take it away.
    script = """
import torch
from visdyn.pipeline.fingerprint import take_fingerprint
kernels = take_fingerprint().kernels
print(kernels["matmul"], kernels["exp"])
"""
    old = {"MKL_ENABLE_INSTRUCTIONS": "SSE4_2"}
    assert output("-c", script, **PORTABLE) == output("-c", script, **PORTABLE, **old)
    free = PORTABLE | {"MKL_CBWR": "AUTO"}
    assert output("-c", script, **PORTABLE) != output("-c", script, **free)


def test_openblas_takes_the_core_that_is_named():
    script = """
import ctypes, numpy
path = next(line.split()[-1] for line in open("/proc/self/maps") if "openblas64" in line)
name = ctypes.CDLL(path).scipy_openblas_get_corename64_
name.restype = ctypes.c_char_p
print(name().decode())
"""
    assert output("-c", script, **PORTABLE).strip() == "Haswell"


@pytest.mark.parametrize(
    "name",
    ["ACCELERATE_MIXED_PRECISION", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "ACCELERATE_USE_CPU",
     "FSDP_OFFLOAD_PARAMS", "PARALLELISM_CONFIG_TP_SIZE", "XLA_USE_BF16", "XLA_DOWNCAST_BF16", "NVIDIA_TF32_OVERRIDE",
     "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_DEFAULT_FPMATH_MODE",
     "TORCH_MKLDNN_MATMUL_MIN_DIM", "TORCH_BLAS_PREFER_CUBLASLT", "TORCH_LINALG_PREFER_CUSOLVER",
     "TORCH_CUDNN_V8_API_DISABLED", "PYTORCH_TUNABLEOP_ENABLED", "USE_HUB_KERNELS", "DIFFUSERS_ATTN_BACKEND",
     "TRANSFORMERS_SDPA_FORCE_GQA", "MKL_DOMAIN_NUM_THREADS", "RANK", "LOCAL_RANK", "NODE_RANK", "WORLD_SIZE",
     "LOCAL_WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID",
     "PMIX_RANK", "MPI_LOCALNRANKS", "PJRT_DEVICE", "DS_ACCELERATOR", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD",
     "NPY_PROMOTION_STATE", "PANDAS_FUTURE_INFER_STRING", "OPENCV_FFMPEG_CAPTURE_OPTIONS",
     "OPENCV_VIDEOIO_PRIORITY_LIST", "OPENCV_IO_MAX_IMAGE_PIXELS"],
)  # fmt: skip
def test_what_would_change_results_is_left_out_and_said(name):
    settled, said = settle({name: "2", "HOME": "/home/reader"})
    assert name not in settled
    assert settled["HOME"] == "/home/reader"
    assert said == [f"left out of the shell's environment, for it would change results: {name}=2"]


def test_what_stands_in_the_list_is_tried():
    tried = test_what_would_change_results_is_left_out_and_said.pytestmark[0].args[1]
    untried = [pattern for pattern in arithmetic.LEFT_OUT
               if not any(arithmetic.fnmatchcase(name, pattern) for name in tried)]  # fmt: skip
    assert not untried


@pytest.mark.parametrize("name", FOREIGN)
def test_a_foreign_setting_does_not_reach_a_stage(name):
    clean, foreign = (isolate(settle(given)[0])[0] for given in ({"HOME": "/h"}, {"HOME": "/h", name: FOREIGN[name]}))
    assert foreign == clean


def test_the_tests_themselves_see_no_foreign_setting(monkeypatch):
    for name in os.environ:  # what goes comes back after this test; a library may have set some of it by now
        monkeypatch.setenv(name, os.environ[name])
    leave_out_foreign()
    before = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    apply()
    leave_out_foreign()
    left = {name: os.environ[name] for name in FOREIGN if name in os.environ}
    assert left.keys() <= {"PYTHONPATH"}
    assert before.items() <= os.environ.items()


@pytest.mark.parametrize("pattern", arithmetic.PASSED)
def test_what_is_listed_passes_unless_it_changes_results(pattern):
    name = pattern.replace("*", "SOMETHING")
    kept, _ = isolate({name: "/tmp"})
    assert kept[name].startswith("/tmp")
    assert name not in isolate({f"X_{name}": "/tmp"})[0].keys() - {*arithmetic.SET, "TMPDIR", "no_proxy", "NO_PROXY"}


def test_nothing_that_changes_results_is_listed_or_let_through_by_name():
    tried = test_what_would_change_results_is_left_out_and_said.pytestmark[0].args[1]
    given = dict.fromkeys(tried, "2") | {"VISDYN_PASS": ",".join(tried)}
    assert not isolate(given, named=tried)[0].keys() & set(tried)


def test_what_params_or_the_user_name_passes():
    judges = [{"key_variable": "JUDGE_KEY"}, {"key_variable": ""}]
    values = {"judges": judges, "data": {"epic": "$EPIC/a", "aurora": None}, "paths": ["${CLIPS}/b", "c$", "~/d"]}
    assert named_variables(values) == {"JUDGE_KEY", "EPIC", "CLIPS"}
    shell = dict.fromkeys(("JUDGE_KEY", "EPIC", "AWS_SECRET_ACCESS_KEY", "SITE_A", "SITE_B", "OTHER"), "x")
    kept, _ = isolate(shell | {"VISDYN_PASS": "SITE_*, , NOTHING"}, named_variables(values))
    assert kept.keys() & shell.keys() == {"JUDGE_KEY", "EPIC", "SITE_A", "SITE_B"}


def test_what_is_set_is_the_same_whatever_the_shell_says():
    for name, value in arithmetic.SET.items():
        assert isolate({name: "another"})[0][name] == value


@pytest.mark.parametrize(("given", "expected"), [
    ({}, "localhost,127.0.0.1,::1"),
    ({"no_proxy": "a.example, b.example"}, "a.example,b.example,localhost,127.0.0.1,::1"),
    ({"NO_PROXY": "localhost", "no_proxy": ".example"}, ".example,localhost,127.0.0.1,::1"),
])  # fmt: skip
def test_proxies_never_stand_before_this_machine(given, expected):
    kept, _ = isolate(given | {"HTTP_PROXY": "http://proxy:3128"})
    assert kept["no_proxy"] == kept["NO_PROXY"] == expected
    assert kept["HTTP_PROXY"] == "http://proxy:3128"


def test_a_folder_for_scratch_files_is_short_and_writable(tmp_path, monkeypatch):
    monkeypatch.setattr(arithmetic, "LONGEST_TMPDIR", len(os.fsencode(tmp_path)))
    assert isolate({"TMPDIR": str(tmp_path)}) == (isolate({})[0] | {"TMPDIR": str(tmp_path)}, [])
    longer = tmp_path / "x"
    longer.mkdir()
    for given in (str(longer), "/nowhere", "relative"):
        kept, said = isolate({"TMPDIR": given})
        assert kept["TMPDIR"] == "/tmp"
        assert f"TMPDIR={given} is too long" in said[0]
    monkeypatch.setattr(arithmetic, "LONGEST_TMPDIR", 3)
    with pytest.raises(StageError, match="set TMPDIR to a short one"):
        isolate({})


def test_the_longest_folder_leaves_room_for_a_socket():
    """Linux takes 107 bytes; the kernel's are <TMPDIR>/visdyn-<6>-<8>/kernel-<36>-ipc-<n>."""
    path = f"{'/' * arithmetic.LONGEST_TMPDIR}/{kernel_prefix('x' * 32)}{'x' * 8}/kernel-{'x' * 36}-ipc-5"
    assert len(path) <= 107


def test_the_shell_gives_way_to_the_portable_settings_and_it_is_said():
    given = {"PORTABLE": "1", "MKL_CBWR": "AVX512", "ATEN_CPU_CAPABILITY": "avx2", "MKL_NUM_STRIPES": "4"}
    settled, said = settle(given)
    assert {name: settled[name] for name in PORTABLE} == PORTABLE
    assert "MKL_NUM_STRIPES" not in settled
    assert said == ["portable: of the shell's environment these give way: MKL_CBWR=AVX512, MKL_NUM_STRIPES=4"]
    assert settle(settled) == (settled, [])  # what has been settled stays as it is


def test_native_settings_stay_and_threads_are_those_asked_for():
    given = {"MKL_CBWR": "AVX2", "OMP_NUM_THREADS": "7", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}
    settled, said = settle(given, threads=2)
    assert settled == given | dict.fromkeys(arithmetic.THREADS, "2")
    assert said == []
    assert settle(given, threads=None)[0] == given
    assert arithmetic.read_settings(settled) == {"MKL_CBWR": "AVX2", "CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def test_the_switch():
    assert not is_portable({})
    assert is_portable({"PORTABLE": "1"})
    assert is_portable({"VISDYN_PORTABLE": "yes", "PORTABLE": "0"})
    assert not is_portable({"VISDYN_PORTABLE": "0", "PORTABLE": "1"})
    assert not is_portable({"PORTABLE": ""})
    with pytest.raises(StageError, match=r"PORTABLE='always' is neither on nor off"):
        is_portable({"PORTABLE": "always"})


def test_a_processor_that_cannot_is_refused_in_words(monkeypatch):
    monkeypatch.setattr(arithmetic, "read_flags", lambda: ("An old one", frozenset({"sse4_2", "avx"})))
    with pytest.raises(StageError, match=r"needs an x86 processor with AVX2 and FMA, which An old one is not"):
        settle({"PORTABLE": "1"})
    settle({})  # native is what it can


def test_settings_that_come_too_late_are_refused(monkeypatch):
    for name in (*CHOOSE_KERNELS, *arithmetic.SWITCHES):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PORTABLE", "1")
    before = dict(os.environ)
    with pytest.raises(StageError, match=r"numpy.* was imported before the arithmetic was settled"):
        apply()
    assert dict(os.environ) == before


def test_settling_loads_neither_torch_nor_numpy():
    script = "import sys, visdyn.pipeline.arithmetic; print({'torch', 'numpy', 'cv2'} & set(sys.modules))"
    assert output("-c", script).strip() == "set()"
