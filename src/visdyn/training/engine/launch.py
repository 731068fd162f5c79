"""Training in subprocesses: several one-thread runs side by side on a CPU, DeepSpeed's launcher elsewhere.

What is trained stands in params.yaml; where it runs stands in a hardware file (`hardware/*.yaml`), chosen by the
environment variable VISDYN_HARDWARE, so that moving to other machines never invalidates a stage.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from typing import Annotated, Literal

from visdyn.compute.pool import cores
from visdyn.compute.progress import Interval, say
from visdyn.params.reading import Free, Name, ParamsError, Whole, Within, from_mapping
from visdyn.params.runtime import HARDWARE_NAME
from visdyn.paths import digest_of, repository_root
from visdyn.pipeline.arithmetic import left_out
from visdyn.readers import read_json
from visdyn.training.engine.worker import Worker, fork_worker, launch_worker
from visdyn.yaml_files import YamlError, clipped, read_yaml


@dataclass(frozen=True)
class Job:
    """One training run: a recipe function and its arguments.

    Attributes:
        name: unique within the stage; names the log.
        function: `module:function`, called with `arguments` and `scratch`.
        arguments: keyword arguments, JSON or dataclasses of it; `output` is the folder it writes. A dataclass becomes
            the mapping that stands in the job file, and is read back from there as strictly as params.yaml is.
        after: names of jobs that must have finished before.
    """

    name: str
    function: str
    arguments: dict
    after: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        plain = {name: asdict(value) if is_dataclass(value) else value for name, value in self.arguments.items()}
        object.__setattr__(self, "arguments", plain)


@dataclass(frozen=True)
class TrainerOptions:
    """The arguments of transformers' Trainer that a hardware file may set: where and how fast, never what is learnt.

    Attributes:
        deepspeed: DeepSpeed's file.
        gradient_accumulation_steps: parts in which a batch is worked through.
        activation_checkpointing: computes activations again instead of keeping them.
        compile_layers: compiles the decoder layers of a token model one by one (`training/engine/compiled.py`), which
            then choose themselves what they compute again; not with ZeRO-3, which cuts parameters apart between layers.
        ddp_timeout: seconds that a rank waits for the others.
        report_to: trackers of the curves, beside the plain file that is always written.
    """

    deepspeed: Name | None = None
    gradient_accumulation_steps: Annotated[int, Within(1, 65_536)] = 1
    activation_checkpointing: bool = False
    compile_layers: bool = False
    dataloader_num_workers: Annotated[int, Within(0, 256)] = 0
    dataloader_prefetch_factor: Annotated[int, Within(1, 1024)] | None = None
    dataloader_persistent_workers: bool = False
    ddp_timeout: Annotated[int, Within(1, 86_400)] = 1800
    report_to: tuple[Literal["dvclive", "tensorboard", "wandb", "trackio"], ...] = ()


@dataclass(frozen=True)
class Hardware:
    """Where training runs.

    Attributes:
        parallel_jobs: runs side by side (CPU); 0 means one per core.
        threads: threads of each run.
        launcher: `python` (forks of one warm process), or `deepspeed` for more than one rank.
        launcher_options: further options of the launcher (`--num_gpus 8`, `--hostfile ...`).
        trainer: extra `TrainingArguments` of every run, of those in `TrainerOptions`.
        environment: variables of each run's processes, as text.
    """

    parallel_jobs: Whole = 0
    threads: Annotated[int, Within(1, 1024)] = 1
    launcher: Literal["python", "deepspeed"] = "python"
    launcher_options: tuple[Name, ...] = ()
    trainer: Annotated[dict, Free("checked as TrainerOptions")] = field(default_factory=dict)
    environment: Annotated[dict, Free("text by a variable's name, checked below")] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if names := set(left_out(self.environment)) - {"DS_ACCELERATOR"}:
            raise ValueError(f"environment has {min(names)}, which would change what is learnt; take it out")
        for name, value in self.environment.items():
            if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name) or not isinstance(value, str) or "\0" in value:
                raise ValueError(f"environment has {clipped(name)}: {clipped(value)}; give a name, and text in quotes")
        for name in ("--num_gpus", "--num_nodes"):
            if (value := self._option(name)) is not None and not re.fullmatch("[1-9][0-9]{0,5}", value):
                raise ValueError(f"launcher_options has {name} {clipped(value)}; it takes a whole number from 1")

    @classmethod
    def load(cls, name: str | None = None) -> Hardware:
        """Read `hardware/<name>.yaml`; VISDYN_HARDWARE overrides the name, which defaults to `cpu`.

        Raises:
            FileNotFoundError: there is no such file.
            ParamsError: the name leads elsewhere; an unknown key, a wrong type or a value that may not stand there.
        """
        name = os.environ.get("VISDYN_HARDWARE") or name or "cpu"
        if wanted := HARDWARE_NAME.refuse(name):
            raise ParamsError(f"VISDYN_HARDWARE must be {wanted}, not {clipped(name)}")
        path = repository_root() / "hardware" / f"{name}.yaml"
        if not path.is_file():
            known = sorted(file.stem for file in path.parent.glob("*.yaml"))
            raise FileNotFoundError(f"no hardware file {path}; VISDYN_HARDWARE is one of {', '.join(known)}")
        try:
            values = read_yaml(path) or {}
        except YamlError as error:
            raise ParamsError(str(error)) from None
        hardware = from_mapping(cls, values, path)
        from_mapping(TrainerOptions, hardware.trainer, path, "trainer")
        return hardware

    @property
    def slots(self) -> int:
        """How many jobs run side by side."""
        return self.parallel_jobs or max(1, cores() // self.threads)

    @property
    def ranks(self) -> int:
        """How many processes train one run; 0 where the launcher's options leave it to what it finds."""
        if self.launcher != "deepspeed":
            return 1
        if hosts := self._option("--hostfile"):
            path = repository_root() / hosts
            lines = path.read_text().splitlines() if path.is_file() else []
            return sum(int(slots) for line in lines for slots in re.findall(r"^[^#]*slots=(\d+)", line))
        count = int(self._option("--num_gpus") or _count_accelerators())
        return count * int(self._option("--num_nodes") or 1)

    def _option(self, name: str) -> str | None:
        """Return the value of an option of the launcher, the last where it is given twice."""
        options = [str(option) for option in self.launcher_options]
        return next((options[at + 1] for at in range(len(options) - 2, -1, -1) if options[at] == name), None)


def check_split(hardware: str | None, batch_size: int) -> None:
    """Refuse a batch that the ranks of a hardware file cannot share, before hours of encoding.

    Raises:
        ValueError: the message names the batch, the ranks and the accumulation steps.
    """
    from visdyn.training.engine.fit import split_batch

    found = Hardware.load(hardware)
    if found.ranks:
        split_batch(batch_size, found.ranks, found.trainer.get("gradient_accumulation_steps", 1))


def _count_accelerators() -> int:
    import torch

    return torch.cuda.device_count()


class JobError(RuntimeError):
    """A training run failed; the message carries the end of its log."""


def run_jobs(
    jobs: Sequence[Job], scratch: Path, hardware: Hardware | str | None = None, every: float = 5.0
) -> dict[str, float]:
    """Run training jobs, several side by side, and return the seconds that each took.

    A job trains into `scratch` and is copied to its `output` when it has finished: DVC deletes a stage's outputs
    before it runs again, so only scratch survives a kill. A job that had finished is copied, not trained again.
    The first failure ends the others and raises.

    Args:
        scratch: folder keyed by the stage's parameters and inputs (`Stage.scratch`).
        every: seconds between two lines of progress.

    Raises:
        JobError: a job failed, or scratch holds the unfinished state of a job with other arguments.
        ValueError: two jobs of one name, or an `after` that names no job or leads in a circle.
    """
    _check_order(jobs)
    hardware = hardware if isinstance(hardware, Hardware) else Hardware.load(hardware)
    waiting, running, seconds = list(jobs), {}, {}
    try:
        while waiting or running:
            while len(running) < hardware.slots and (job := _next_ready(waiting, running)):
                waiting.remove(job)
                title = f"run {len(jobs) - len(waiting)} of {len(jobs)}, {job.name}"
                if _is_complete(job, scratch):
                    _copy_output(job, scratch)
                    say(f"{title}: already trained")
                else:
                    running[job.name] = (job, _start_job(job, scratch, hardware), time.monotonic(), title)
            _await_job(running, seconds, scratch, every)
    finally:
        _end_processes([process for _, process, *_ in running.values()])
    return seconds


def _check_order(jobs: Sequence[Job]) -> None:
    names = [job.name for job in jobs]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"training jobs need names of their own; repeated: {', '.join(sorted(repeated))}")
    if unknown := {name for job in jobs for name in job.after} - set(names):
        raise ValueError(f"training jobs wait for {', '.join(sorted(unknown))}, which is no job of this stage")
    waiting = list(jobs)
    while waiting:
        if not (job := _next_ready(waiting, {})):
            raise ValueError(f"training jobs wait for each other: {', '.join(job.name for job in waiting)}")
        waiting.remove(job)


def _end_processes(processes: list[Worker | subprocess.Popen], grace: float = 10.0) -> None:
    """End processes and wait until they are gone: a new run must not meet them in the same scratch folder."""
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _next_ready(waiting: list[Job], running: dict) -> Job | None:
    """Return the first job that waits for none of those still waiting or running."""
    unfinished = {job.name for job in waiting} | set(running)
    return next((job for job in waiting if not unfinished & set(job.after)), None)


def _await_job(running: dict, seconds: dict, scratch: Path, every: float) -> None:
    """Wait until a job ends, printing progress now and then."""
    interval = Interval(every)
    while running:
        for name, (job, process, started, title) in list(running.items()):
            if process.poll() is None:
                continue
            del running[name]
            if process.returncode:
                raise JobError(
                    f"training {name} failed (exit {process.returncode}):\n{_last_lines(_log_path(scratch, job), 15)}"
                )
            seconds[name] = time.monotonic() - started
            (scratch / job.name / "done").write_text(_job_digest(job))
            _copy_output(job, scratch)
            say(f"{title}: trained in {seconds[name]:.0f} s")
            return
        if interval.is_due():
            say(
                " | ".join(
                    f"{title}: {_last_lines(_log_path(scratch, job), 1)}" for job, _, _, title in running.values()
                )
            )
        time.sleep(0.2)


def _start_job(job: Job, scratch: Path, hardware: Hardware) -> Worker | subprocess.Popen:
    folder = scratch / job.name
    folder.mkdir(parents=True, exist_ok=True)
    arguments = {**job.arguments, "output": str(folder / "output"), "scratch": str(folder / "state")}
    _check_state(folder, {"function": job.function, "arguments": arguments})
    shutil.rmtree(folder / "output", ignore_errors=True)
    if hardware.trainer:
        arguments["hardware"] = hardware.trainer
    described = folder / "job.json"
    described.write_text(json.dumps({"function": job.function, "arguments": arguments}))
    if hardware.launcher == "deepspeed":
        return launch_worker(described, _log_path(scratch, job), hardware)
    return fork_worker(described, _log_path(scratch, job), hardware)


def _check_state(folder: Path, description: dict) -> None:
    """Refuse unfinished state of a job with other arguments; whether other hardware fits, the training loop says."""
    if not (folder / "state").exists() or not (folder / "job.json").is_file():
        return
    found = read_json(folder / "job.json", dict, JobError, "delete the folder")
    found["arguments"].pop("hardware", None)
    if found != json.loads(json.dumps(description)):
        raise JobError(f"{folder} holds the unfinished state of a run with other arguments; delete it to start afresh")


def _log_path(scratch: Path, job: Job) -> Path:
    return scratch / job.name / "log.txt"


def _last_lines(path: Path, lines: int) -> str:
    text = path.read_text(errors="replace").strip().splitlines() if path.is_file() else []
    return "\n".join(text[-lines:]) if text else "starting"


def _job_digest(job: Job) -> str:
    return digest_of([job.function, job.arguments])


def _is_complete(job: Job, scratch: Path) -> bool:
    marker = scratch / job.name / "done"
    return marker.is_file() and marker.read_text() == _job_digest(job)


def _copy_output(job: Job, scratch: Path) -> None:
    output = Path(job.arguments["output"])
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(scratch / job.name / "output", output)
