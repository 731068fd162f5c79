"""The runner: what it refuses, what it keeps, what it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from foreign_environment import FOREIGN
from toy import make_repository, write_notebook

from visdyn import paths
from visdyn.pipeline.errors import StageError
from visdyn.pipeline.guards import Entry, changed, key_of, read_entry, snapshot, stage_key
from visdyn.pipeline.processes import TOKEN, end_marked, marked
from visdyn.pipeline.runner import main, open_stage, run_stage
from visdyn.result_tables import ResultTableError

PACKAGE_SOURCE = str(Path(paths.__file__).resolve().parents[1])


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A toy repository that the runner takes for its own."""
    root = tmp_path / "repository"
    monkeypatch.setenv("VISDYN_ROOT", str(root))
    monkeypatch.setenv("PYTHONPATH", PACKAGE_SOURCE)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return root


def outputs(path):
    return "".join(
        output.get("text", "") for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])
    )


def test_a_stage_runs_in_this_environment_at_the_repository_root(toy, capsys):
    shown = "import os, sys\nnames = ('PYTHONHASHSEED', 'HF_HUB_OFFLINE', 'OMP_NUM_THREADS')"
    places = "sys.prefix == os.environ['VISDYN_PREFIX'], os.getcwd() == os.environ['VISDYN_ROOT']"
    printed = f"print({places}, [os.environ[name] for name in names], batch_size, stage.seed)"
    make_repository(toy, shown, printed, "stage.write_json({'x': 1 / 3}, 'x.json')\nstage.scratch('step')")
    executed = run_stage("fdm")
    threads = yaml.safe_load((toy / "params.yaml").read_text())["runtime"]["threads"]
    assert outputs(executed).strip() == f"True True ['0', '1', '{threads}'] 32 0"
    assert json.loads((toy / "reports/results/fdm/x.json").read_text()) == {"x": 0.333333}
    assert executed.with_suffix(".html").stat().st_size > 1000
    assert capsys.readouterr().err.count("fdm: cell ") == 6  # one line a code cell, the injected one included
    assert not (toy / ".visdyn/scratch/fdm").exists()  # the outputs hold what it led to


def test_the_shell_s_arithmetic_does_not_reach_a_stage(toy, capsys, monkeypatch):
    monkeypatch.setenv("PORTABLE", "1")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    shown = "import os, torch\nprint(torch.backends.cpu.get_cpu_capability(), os.environ['MKL_CBWR'])"
    make_repository(toy, shown, "print(os.environ.get('ACCELERATE_MIXED_PRECISION'), stage.scratch().name)")
    executed = run_stage("fdm")
    assert outputs(executed).split()[:3] == ["AVX2", "COMPATIBLE", "None"]
    assert outputs(executed).strip().endswith("-portable")  # a native run's unfinished work is not continued
    said = capsys.readouterr().err
    assert "fdm: left out of the shell's environment" in said
    assert "ACCELERATE_MIXED_PRECISION=bf16" in said
    assert "fdm: portable: of the shell's environment these give way: ATEN_CPU_CAPABILITY=default" in said
    (machine,) = json.loads((toy / "reports/machine.json").read_text())["machines"].values()
    assert machine["portable"]


def test_a_shell_full_of_foreign_settings_gives_a_stage_the_same_environment(toy, monkeypatch):
    """What differs from run to run is apart: the run's token, the kernel's folders."""
    shown = "import json, os\nown = ('VISDYN_RUN', 'VISDYN_STAGE_KEY', 'JPY_', 'JUPYTER_', 'IPYTHONDIR', 'PYTEST_')"
    printed = "print(json.dumps({n: v for n, v in os.environ.items() if not n.startswith(own)}))"
    make_repository(toy, shown, printed)
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    clean = json.loads(outputs(run_stage("fdm")))
    for name, value in FOREIGN.items():
        monkeypatch.setenv(name, value)
    assert json.loads(outputs(run_stage("fdm"))) == clean
    assert clean["PYTHONPATH"].startswith("src:")
    assert clean["LC_ALL"] == "C.UTF-8"


def test_results_name_no_folder_of_this_machine(toy, monkeypatch):
    monkeypatch.setenv("VISDYN_STAGE_KEY", "key")
    make_repository(toy)
    stage = open_stage("fdm")
    data = stage.settings.data
    place = toy / "data/kitchen/clips"
    assert data.clips == "data/kitchen/clips"
    bad = stage.quarantine()
    bad.add(place / "moments/a.avi", f"{place}/moments/a.avi cannot be read by {sys.prefix}/lib/cv2.so")
    assert [(one.item, one.reason) for one in bad] == [("moments/a.avi", "moments/a.avi cannot be read by lib/cv2.so")]
    assert bad.most == stage.settings.runtime.most_set_aside
    path = stage.write_json({"base": str(toy / "models/base"), "files": [f"file://{toy}/x"], "n": 1}, "x.json")
    assert json.loads(path.read_text()) == {"base": "models/base", "files": ["file://x"], "n": 1}


def test_a_second_run_writes_the_same_bytes_and_timings_go_elsewhere(toy):
    make_repository(toy, "object()", "print(stage.params.floor)")
    files = [toy / "reports/notebooks/toy.ipynb", toy / "reports/notebooks/toy.html"]
    run_stage("fdm")
    first = [path.read_bytes() for path in files]
    run_stage("fdm")
    assert [path.read_bytes() for path in files] == first
    timings = json.loads((toy / ".visdyn/timings/fdm.json").read_text())
    assert timings["notebook"]["duration"] > 0
    assert timings["usage"]["peak_mib"] > 1
    assert b"start_time" not in first[0]
    assert str(toy).encode() not in first[0]


def test_parameters_that_are_keys_of_the_section_come_from_params_yaml(toy):
    make_repository(toy, "print(floor, batch_size)")
    text = (toy / "params.yaml").read_text()
    (toy / "params.yaml").write_text(text.replace("floor: 0.5", "floor: 0.25"))
    assert outputs(run_stage("fdm", values={"batch_size": "8"})).strip() == "0.25 8"


def test_an_unknown_or_mistyped_parameter_is_refused(toy):
    make_repository(toy)
    with pytest.raises(
        StageError, match=r"no parameter 'batchsize'; its parameters cell has profile, floor, batch_size"
    ):
        run_stage("fdm", values={"batchsize": "3"})
    with pytest.raises(StageError, match=r"'batch_size' .* is of type int \(default 32\), not str"):
        run_stage("fdm", values={"batch_size": "many"})


def test_a_failing_cell_leaves_notebook_html_and_the_end_of_the_log(toy, capsys, monkeypatch):
    make_repository(toy, "print('step 41, loss 0.5')", "raise ValueError('the tap is missing')")
    monkeypatch.chdir(toy)
    assert main(["fdm"]) == 1
    said = capsys.readouterr().err
    assert "cell 5 failed with ValueError: the tap is missing" in said
    assert "    step 41, loss 0.5" in said
    assert "An Exception was encountered" in (toy / "reports/notebooks/toy.html").read_text()


def test_a_dead_kernel_is_a_failure(toy):
    make_repository(toy, "import os\nos._exit(3)")
    with pytest.raises(StageError, match="kernel ended with DeadKernelError"):
        run_stage("fdm")


def test_a_missing_dependency_names_the_stage_that_makes_it(toy):
    make_repository(toy)
    with pytest.raises(StageError, match=r"later needs models/fdm, which does not exist.*run `dvc repro fdm`"):
        run_stage("later")
    (toy / "input.txt").unlink()
    with pytest.raises(StageError, match=r"needs input\.txt.*restore it from git"):
        run_stage("fdm")


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ("[]", "has no mapping of stages"),
        ("null", "has no mapping of stages"),
        ("{fdm: null}", "stage fdm is not written as DVC has it"),
        ("{fdm: {cmd: x, deps: data}}", "stage fdm is not written as DVC has it"),
        ("{fdm: {cmd: x, deps: [{a: b}]}}", "stage fdm is not written as DVC has it"),
        ("{fdm: {cmd: x, outs: [{}]}}", "stage fdm is not written as DVC has it"),
        ("{fdm: {cmd: x, deps: ['${rot}/a']}}", "stage fdm names ${rot}, which params.yaml lacks"),
    ],
)
def test_a_dvc_yaml_that_is_none_is_a_sentence(toy, capsys, stages, said):
    make_repository(toy)
    (toy / "dvc.yaml").write_text(f"stages: {stages}\n")
    assert main(["fdm", "--profile", "."]) == 1
    assert f"{toy / 'dvc.yaml'}" in (found := capsys.readouterr().err)
    assert said in found


def test_an_unknown_stage_or_a_foreign_folder_is_a_sentence(toy, capsys, monkeypatch, tmp_path):
    make_repository(toy)
    monkeypatch.chdir(toy)
    assert main(["fmd"]) == 1
    assert "has no stage 'fmd'; it has fdm, later" in capsys.readouterr().err
    monkeypatch.chdir(tmp_path)
    assert main(["fdm"]) == 1
    assert "is not inside" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "named"),
    [
        ("(root / 'notebooks/toy.ipynb').write_text((root / 'notebooks/toy.ipynb').read_text() + ' ')", "toy.ipynb"),
        ("(root / 'data/new.txt').write_text('new')", "data"),
        ("(root / 'data/item.txt').unlink()", "data"),
        (
            "p = root / 'params.yaml'; p.write_text(p.read_text().replace('floor: 0.5', 'floor: 0.6'))",
            "params.yaml: fdm",
        ),
    ],
)
def test_a_dependency_edited_while_the_stage_runs_fails_it(toy, edit, named):
    make_repository(toy, f"root = stage.repository\n{edit}")
    with pytest.raises(
        StageError, match="changed while stage fdm ran, so its outputs belong to neither version"
    ) as caught:
        run_stage("fdm")
    assert named in str(caught.value)


def test_a_file_rewritten_with_the_same_content_is_no_change(toy):
    make_repository(toy)
    entry = read_entry(toy, "fdm")
    before = snapshot(toy, entry)
    (toy / "input.txt").write_text("input\n")
    os.utime(toy / "input.txt", (1, 1))
    assert changed(toy, entry, before) == []
    assert key_of(before) == stage_key(toy, "fdm")
    (toy / "input.txt").write_text("other\n")
    assert changed(toy, entry, before) == ["input.txt"]
    assert key_of(before) != stage_key(toy, "fdm")


def test_bytecode_written_while_a_stage_runs_is_no_change_of_a_source_folder(tmp_path):
    (tmp_path / "room/__pycache__").mkdir(parents=True)
    (tmp_path / "room/module.py").touch()
    entry = Entry("fdm", deps=("room",), params=(), outs=())
    before = snapshot(tmp_path, entry)
    (tmp_path / "room/__pycache__/module.pyc").touch()
    assert changed(tmp_path, entry, before) == []
    assert snapshot(tmp_path, entry) == before
    (tmp_path / "room/second.py").touch()
    assert changed(tmp_path, entry, before) == [f"room ({tmp_path / 'room/second.py'})"]


CHILD = "import subprocess, sys, time\nsubprocess.Popen([sys.executable, '-c', {code!r}], start_new_session=True)\n"
SLEEPER = "import os, time; open('child.pid', 'w').write(str(os.getpid())); time.sleep(300)"
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPER


def start_runner(toy):
    variables = {name: value for name, value in os.environ.items() if name != TOKEN}
    command = [sys.executable, "-m", "visdyn.pipeline", "fdm"]
    runner = subprocess.Popen(command, cwd=toy, env=variables, stderr=subprocess.PIPE, text=True)
    pid_file = toy / "child.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text(), "the notebook's child did not start")
    return runner, int(pid_file.read_text())


def wait_until(condition, otherwise, seconds=240.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def gone(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through Linux's /proc")
@pytest.mark.parametrize(
    ("signum", "child"), [(signal.SIGTERM, SLEEPER), (signal.SIGINT, SLEEPER), (signal.SIGTERM, STUBBORN)]
)
def test_a_signal_ends_the_kernel_and_all_it_started(toy, signum, child):
    make_repository(toy, "print('under way')", CHILD.format(code=child) + "time.sleep(300)")
    runner, pid = start_runner(toy)
    runner.send_signal(signum)
    said = runner.communicate(timeout=60)[1]
    assert runner.returncode == 128 + signum
    assert f"stopped by {signum.name}" in said
    assert gone(pid)
    assert "under way" in outputs(toy / "reports/notebooks/toy.ipynb")  # what it had got to is kept


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are found through Linux's /proc")
def test_a_killed_runner_leaves_no_process(toy):
    make_repository(toy, CHILD.format(code=SLEEPER) + "time.sleep(300)")
    runner, pid = start_runner(toy)
    runner.kill()
    runner.communicate(timeout=60)
    wait_until(lambda: gone(pid), "the child outlived its runner")


def test_only_processes_with_the_token_are_ended():
    own = subprocess.Popen(["sleep", "60"], env={**os.environ, TOKEN: "mine-and-only-mine"})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, TOKEN: "mine-and-only-mine-2"})
    try:
        wait_until(lambda: marked("mine-and-only-mine") == [own.pid], "the process was not found")
        assert end_marked("mine-and-only-mine") == 1
        assert own.wait(timeout=10) == -signal.SIGTERM
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_leftover_of_the_process_ends_when_the_notebook_succeeds(toy):
    wait = "while not __import__('os').path.exists('child.pid') or not open('child.pid').read():\n    time.sleep(0.05)"
    make_repository(toy, CHILD.format(code=SLEEPER) + wait)
    run_stage("fdm")
    assert gone(int((toy / "child.pid").read_text()))


def test_tables_are_sorted_short_and_free_of_minus_zero(toy):
    make_repository(toy)
    stage = open_stage("fdm")
    table = pd.DataFrame({"arm": ["b", "a"], "chain": [1, 2], "step": 5, "loss": [1 / 3, -0.0]})
    path = stage.write_table(table, "training.csv")
    assert path == toy / "reports/results/fdm/training.csv"
    assert path.read_bytes() == b"arm,chain,step,loss\na,2,5,0\nb,1,5,0.333333\n"
    assert list(stage.read_table("fdm/training.csv").columns) == ["arm", "chain", "step", "loss"]
    with pytest.raises(ResultTableError, match=r"fdm/training\.csv has the columns value"):
        stage.write_table(table.assign(value=1.0), "training.csv")
    with pytest.raises(ValueError, match="writes only under"):
        stage.write_table(table, "../idm/arms.csv")
    with pytest.raises(FileNotFoundError, match="run `dvc repro idm`"):
        stage.read_table("idm/none.csv")


def test_metrics_are_means_by_name_and_an_unknown_one_is_null(toy):
    make_repository(toy)
    table = pd.DataFrame({"arm": ["b", "a", "a", "a"], "k": [1, 8, 8, 1], "score": [np.nan, 1, 2, 1 / 3]})
    stage = open_stage("fdm")
    by_two = stage.write_metrics(table, ["arm", "k"], "score")
    assert by_two == toy / "reports/metrics/fdm.json"
    assert json.loads(by_two.read_text()) == {"a": {"1": 0.333333, "8": 1.5}, "b": {"1": None}}
    assert json.loads(stage.write_metrics(table, ["arm"], "score").read_text())["a"] == 1.11111
    assert json.loads(stage.write_metrics(table[:0], ["arm", "k"], "score").read_text()) == {}


def test_paths_stay_in_the_profile_and_hub_ids_pass(toy):
    make_repository(toy)
    stage = open_stage("fdm")
    assert stage.path("models/base") == toy / "models/base"
    for outside in ("/etc", "../x"):
        with pytest.raises(ValueError, match="leads out of profile"):
            stage.path(outside)
    (toy / "models/base").mkdir(parents=True)
    assert stage.reference("models/base") == str(toy / "models/base")
    assert stage.reference("facebook/chameleon-7b") == "facebook/chameleon-7b"
    assert stage.params.floor == stage.settings.fdm.floor


def test_resume_folders_follow_parameters_and_inputs(toy):
    make_repository(toy)
    first = open_stage("fdm").scratch("seed-0")
    assert first.is_dir()
    assert first == open_stage("fdm").scratch("seed-0")
    values = yaml.safe_load((toy / "params.yaml").read_text())
    values["fdm"]["floor"] = 0.25
    (toy / "params.yaml").write_text(yaml.safe_dump(values))
    assert open_stage("fdm").scratch("seed-0") != first


def test_a_kernel_of_another_environment_is_refused(toy, monkeypatch):
    make_repository(toy)
    monkeypatch.setenv("VISDYN_PREFIX", "/elsewhere")
    with pytest.raises(StageError, match="the pipeline /elsewhere; remove the kernel spec"):
        open_stage("fdm")


def test_a_kernel_spec_of_the_user_is_not_taken(toy, tmp_path, monkeypatch):
    spec = tmp_path / "home/kernels/python3/kernel.json"
    spec.parent.mkdir(parents=True)
    spec.write_text(json.dumps({"argv": ["/bin/false"], "display_name": "hijack", "language": "python"}))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "home"))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path / "home"))
    make_repository(toy)
    run_stage("fdm")


def test_a_notebook_without_its_parameters_cell_is_refused(toy):
    make_repository(toy)
    write_notebook(toy / "notebooks/toy.ipynb", "print(1)", parameters=None)
    with pytest.raises(StageError, match="exactly one cell tagged 'parameters', not 0"):
        run_stage("fdm")
