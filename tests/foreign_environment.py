"""A shell full of foreign settings: `env $(python tests/foreign_environment.py) make test` is as `make test`.

Each variable is one that somebody's cluster, container or start-up file sets, and that changes a precision, a seed's
order, a locale, a font, who is a rank, or which packages are found. None of them may reach a stage.
"""

from __future__ import annotations

FOREIGN = {
    # places among ranks, and what accelerate and its relatives read behind the recipe
    "RANK": "1", "LOCAL_RANK": "1", "NODE_RANK": "1", "GROUP_RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "29500", "OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_MCA_btl": "self", "PMI_SIZE": "2", "PMI_RANK": "1", "PMIX_RANK": "1", "MPI_LOCALNRANKS": "2",
    "MPI_LOCALRANKID": "1", "MV2_COMM_WORLD_SIZE": "2", "MV2_COMM_WORLD_RANK": "1", "TORCHELASTIC_RUN_ID": "x",
    "ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_USE_CPU": "1", "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "7",
    "ACCELERATE_USE_FSDP": "1", "FSDP_OFFLOAD_PARAMS": "1", "DS_ACCELERATOR": "xpu", "PJRT_DEVICE": "TPU",
    # libraries
    "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD": "1", "NPY_PROMOTION_STATE": "legacy", "PANDAS_FUTURE_INFER_STRING": "1",
    "OPENCV_FFMPEG_CAPTURE_OPTIONS": "skip_frame;nokey", "OPENCV_VIDEOIO_PRIORITY_LIST": "IMAGES",
    "OPENCV_IO_MAX_IMAGE_PIXELS": "100", "USE_TF": "1", "TRANSFORMERS_VERBOSITY": "debug", "KUBEFLOW_TRAINER": "1",
    # threads
    "OMP_PROC_BIND": "true", "OMP_PLACES": "{0}", "OMP_DYNAMIC": "true", "OMP_THREAD_LIMIT": "1",
    "GOMP_CPU_AFFINITY": "0", "KMP_AFFINITY": "compact", "MKL_DYNAMIC": "TRUE", "MKL_DOMAIN_NUM_THREADS": "2",
    "NUMEXPR_NUM_THREADS": "3",
    # Python and pip
    "PYTHONPATH": "/opt/ros/lib/python3/dist-packages", "PYTHONSTARTUP": "/nowhere/startup.py", "PYTHONOPTIMIZE": "2",
    "PYTHONWARNINGS": "error", "PYTHONUSERBASE": "/nowhere/base", "PYTHONHASHSEED": "7", "PYTHONIOENCODING": "latin-1",
    "PYTHONUTF8": "0", "PYTHONBREAKPOINT": "os.abort", "PIP_USER": "1", "PIP_TARGET": "/nowhere",
    # matplotlib, Jupyter, terminals
    "MATPLOTLIBRC": "/nowhere/matplotlibrc", "MPLCONFIGDIR": "/nowhere/matplotlib", "MPLBACKEND": "TkAgg",
    "XDG_CONFIG_HOME": "/nowhere/config", "JUPYTER_CONFIG_DIR": "/nowhere/jupyter", "IPYTHONDIR": "/nowhere/ipython",
    "JUPYTER_RUNTIME_DIR": "/nowhere/runtime", "COLUMNS": "17", "LINES": "3", "FORCE_COLOR": "1", "NO_COLOR": "1",
    # words and places
    "LANG": "tr_TR.ISO-8859-9", "LC_ALL": "de_DE.ISO-8859-1", "LC_NUMERIC": "de_DE.UTF-8", "LANGUAGE": "de",
    "GIT_DIR": "/nowhere/.git", "GIT_WORK_TREE": "/nowhere", "TMP": "/nowhere", "TEMP": "/nowhere",
    "TMPDIR": "/nowhere/of/a/name/that/is/far/too/long/for/the/path/of/a/socket/in/it/on/any/machine/there/is",
    "A_SETTING_OF_TOMORROW": "1",
}  # fmt: skip

if __name__ == "__main__":
    print(*(f"{name}={value}" for name, value in FOREIGN.items() if not name.startswith(("PIP_", "PYTHON"))))
