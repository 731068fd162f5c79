"""What a stage tells while it runs, in a terminal and elsewhere; the summary at the end."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from toy import make_repository

from visdyn.paths import repository_root
from visdyn.pipeline.console import (
    COSTS,
    PLANNED,
    Console,
    Place,
    expect_seconds,
    find_place,
    fit,
    format_span,
    last_line,
    reckon_seconds,
    trained_share,
)
from visdyn.pipeline.guards import Entry, read_entries
from visdyn.pipeline.run_stages import describe_verdicts, plan_stages, summarise
from visdyn.readers import read_rows


@pytest.mark.parametrize(
    ("said", "share"),
    [
        ("run 1 of 4, a: step 50/100 loss 1.0, 0:00:10 left", 0.125),
        ("run 5 of 14, a: step 30/60 loss 1 | run 6 of 14, b: starting", (4 + 0.5) / 14),
        ("run 3 of 8, a: step 8/8 loss 1 | run 5 of 8, b: step 1/2 loss 1", (3 + 1 + 0.5) / 8),
        ("run 5 of 14, a: trained in 12 s", 5 / 14),
        ("run 2 of 2, a: already trained", 1.0),
        ("probing base: 30 of 200, 1.2 a second, 0:01:20 left", None),
        ("", None),
    ],
)
def test_the_share_that_is_trained_is_read_from_the_log(said, share):
    assert trained_share(said) == (share if share is None else pytest.approx(share))


def test_spans_are_words():
    assert [format_span(s) for s in (3.4, 89, 95, 3600, 7800)] == ["3 s", "89 s", "2 min", "60 min", "2 h 10 min"]


def test_a_long_line_keeps_its_end():
    line = "stage 9 of 17, fdm: cell 4 of 9 | run 5 of 14, supervised-s1: step 160/300 | 4 min, about 6 min left"
    cut = fit(line, 70)
    assert len(cut) <= 70
    assert cut.startswith("stage 9 of 17")
    assert cut.endswith("… | 4 min, about 6 min left")
    assert fit("short", 70) == "short"
    assert len(fit("x" * 200, 30)) == 30


def test_the_last_line_of_a_log_has_no_colours_and_is_not_empty(tmp_path):
    log = tmp_path / "log"
    assert last_line(log) == ""
    log.write_text("first\n\x1b[31mstep 3/9\x1b[0m\n\n")
    assert last_line(log) == "step 3/9"


def test_a_stage_knows_its_place_and_what_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr("visdyn.pipeline.console.read_entries", lambda root: dict.fromkeys("abcd"))
    monkeypatch.setattr("visdyn.pipeline.console.reckon_seconds", lambda repository: dict.fromkeys("abcd", 15.0))
    assert find_place(tmp_path, "b", tmp_path) == Place("b", 2, 4, 15.0, 30.0)
    monkeypatch.setenv(PLANNED, "b d unknown")
    assert find_place(tmp_path, "d", tmp_path) == Place("d", 2, 2, 15.0, 0.0)
    assert find_place(tmp_path, "c", tmp_path) == Place("c")  # somebody runs it outside the plan
    assert find_place(tmp_path, "robust", tmp_path) == Place("robust")


def write_timing(root, stage, seconds):
    (root / ".visdyn/timings").mkdir(parents=True, exist_ok=True)
    (root / f".visdyn/timings/{stage}.json").write_text(json.dumps({"notebook": {"duration": seconds}}))


def test_what_a_stage_took_before_counts_more_than_what_is_reckoned(tmp_path):
    make_repository(tmp_path)
    (tmp_path / "benchmarks/results").mkdir(parents=True)
    costs = tmp_path / "benchmarks/results/stages.csv"
    costs.write_text("stage,cpu_minutes,processes\nfdm,1.5,1\nlater,2,1\n")
    assert find_place(tmp_path, "fdm", tmp_path) == Place("fdm", 1, 2, 90.0, 120.0)
    assert find_place(tmp_path, "fdm", tmp_path / "elsewhere").seconds is None  # another profile's numbers
    write_timing(tmp_path, "later", 42.5)
    assert find_place(tmp_path, "fdm", tmp_path).later == 42.5
    costs.unlink()
    assert find_place(tmp_path, "fdm", tmp_path).seconds is None


def test_a_slow_machine_is_seen_after_its_first_stage_of_a_minute(tmp_path):
    reckoned = {"world": 60.0, "base": 600.0, "idm": 300.0}
    assert expect_seconds(tmp_path, ["world", "base", "idm", "mine"], reckoned) == {**reckoned, "mine": None}
    write_timing(tmp_path, "world", 90.0)
    assert expect_seconds(tmp_path, ["world", "base"], reckoned) == {"world": 90.0, "base": 900.0}
    write_timing(tmp_path, "base", 2550.0)
    assert expect_seconds(tmp_path, ["world", "base", "idm"], reckoned)["idm"] == 1200.0
    assert expect_seconds(tmp_path, ["world", "idm"], {"world": 5.0, "idm": 300.0})["idm"] == 300.0  # too short to tell
    (tmp_path / ".visdyn/timings/world.json").write_text("{")
    assert expect_seconds(tmp_path, ["world"], reckoned) == {"world": 60.0}


def test_the_time_of_a_clone_is_the_committed_run_s_over_the_cores_that_each_stage_uses(monkeypatch):
    root = repository_root()
    rows = [row for _, row in read_rows(root / COSTS)]
    assert [row["stage"] for row in rows] == list(read_entries(root))
    minutes = {row["stage"]: float(row["cpu_minutes"]) for row in rows}
    alone = sum(minutes[row["stage"]] for row in rows if row["processes"] == "1")
    for cores in (1, 2, 8):
        monkeypatch.setattr("visdyn.pipeline.console.cores", lambda cores=cores: cores)
        expected = 60 * (alone + (sum(minutes.values()) - alone) / cores)
        assert sum(reckon_seconds(root).values()) == pytest.approx(expected)
    readme = (root / "README.md").read_text()
    told = dict(re.findall(r"(?m)^\| (\w+) \| `[^|]+` \| [^|]+ \| ([\d.]+) \|$", readme))
    assert {name: float(told[name]) for name in minutes} == pytest.approx(minutes, rel=0.05, abs=0.06)
    assert f"{sum(minutes.values()):.0f} CPU-minutes" in readme
    assert f"{sum(minutes.values()):.0f} CPU-minutes" in (root / "docs/machines.md").read_text()


def test_the_time_left_is_of_the_runs_else_of_the_last_time(tmp_path):
    log = tmp_path / "log"
    console = Console(Place("fdm", 1, 2, 100.0, 50.0), log, stream=io.StringIO())
    console._began -= 25
    log.write_text("nothing that says how far\n")
    assert console.line().endswith("| 25 s, about 75 s left; 2 min for all stages")
    log.write_text("run 2 of 2, a: step 1/2 loss 1\n")
    assert console.line().endswith("| 25 s, about 8 s left; 58 s for all stages")
    console._began -= 100
    log.write_text("nothing\n")
    assert console.line().endswith("| 2 min")  # longer than ever: nothing is promised
    unknown = Console(Place("fdm", 1, 2), log, stream=io.StringIO())
    assert unknown.line() == "stage 1 of 2, fdm | nothing | 0 s"


def test_away_from_a_terminal_a_line_comes_every_few_seconds(tmp_path):
    log, stream = tmp_path / "log", io.StringIO()
    log.write_text("run 1 of 2, a: step 1/9 loss 3\n")
    with Console(Place("fdm", 3, 9), log, cells=4, stream=stream, every=0.6) as console:
        console.start_cell(2, "Train")
        time.sleep(2.2)
        console.end_cell(2.2)
    first, *lines, last = stream.getvalue().splitlines()
    assert first == f"stage 3 of 9, fdm: log in {log}"
    assert 1 <= len(lines) <= 3
    assert all("cell 2 of 4 Train | run 1 of 2, a: step 1/9 loss 3 |" in line for line in lines)
    assert last.split() == ["fdm:", "cell", "2", "of", "4", "2.2", "s", "Train"]
    assert "\r" not in stream.getvalue()


def in_a_terminal(command, folder, environment):
    """Run a command with a pseudo-terminal of 100 columns as its standard streams; return what it printed."""
    master, slave = pty.openpty()
    os.set_inheritable(slave, True)
    import fcntl
    import struct
    import termios

    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(command, cwd=folder, env=environment, stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    parts = []
    while True:
        try:
            parts.append(os.read(master, 65536))
        except OSError:  # the last writer is gone
            break
        if not parts[-1]:
            break
    process.wait()
    os.close(master)
    return process.returncode, b"".join(parts).decode()


def test_in_a_terminal_one_line_lives_and_nothing_of_it_stays(tmp_path):
    make_repository(
        tmp_path,
        "# Train the arms\nimport os, time\nfor step in range(6):\n"
        "    open(os.environ['VISDYN_LOG'], 'a').write(f'run 2 of 5, a: step {step}/6 loss 1\\n')\n    time.sleep(0.5)",
    )
    command = [sys.executable, "-m", "visdyn.pipeline", "fdm"]
    status, said = in_a_terminal(command, tmp_path, {**os.environ, "VISDYN_ROOT": str(tmp_path)})
    assert status == 0, said
    assert f"stage 1 of 2, fdm: log in {tmp_path}/.visdyn/logs/fdm.log" in said
    drawn = [line for line in said.split("\r\x1b[2K") if line.strip()]
    assert all(len(line.rstrip("\r\n")) < 100 for line in drawn if "run 2 of 5" in line)
    assert sum("Train the arms" in line and "run 2 of 5, a: step" in line for line in drawn) >= 3
    shown = re.sub(r"[^\n]*\x1b\[2K", "", said.replace("\r\n", "\n")).splitlines()  # as a terminal shows it at the end
    assert [line for line in shown if "cell" in line] == []


def entries(**deps):
    return {name: Entry(name, tuple(needs), (), (f"out/{name}",)) for name, needs in deps.items()}


def test_the_plan_holds_what_the_named_stages_wait_for():
    all_of = entries(world=(), base=("out/world",), idm=("out/base",), study=(), figures=("out/idm", "out/study"))
    assert plan_stages(all_of, []) == ["world", "base", "idm", "study", "figures"]
    assert plan_stages(all_of, ["idm"]) == ["world", "base", "idm"]
    with pytest.raises(RuntimeError, match="no stage 'imd'; one of world"):
        plan_stages(all_of, ["imd"])


LEDGER = (
    "id,paper,claim,evidence,estimate,verdict\n"
    "one,B,C-FDM beats C-FT,kitchen,0.9,holds\none,B,C-FDM beats C-FT,real,,not measured\n"
    "two,D,Undoing is harder,kitchen,-2.5,fails\nthree,B,Table 2 as recorded,recorded,0.1,holds\n"
)


def test_a_run_ends_with_its_verdicts_from_the_ledger(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports/claims.csv").write_text(LEDGER)
    (tmp_path / ".visdyn/timings").mkdir(parents=True)
    (tmp_path / ".visdyn/timings/fdm.json").touch()
    old = tmp_path / ".visdyn/timings/world.json"
    old.touch()
    os.utime(old, (1, 1))
    said = "\n".join(summarise(tmp_path, time.time() - 200, 0))
    assert "1 stage ran, 3 min" in said
    assert "3 claims; kitchen: 1 holds, 1 fails; real: 1 not measured; recorded: 1 holds" in said
    assert re.search(r"holds +\+0\.90  B C-FDM beats C-FT", said)
    assert re.search(r"fails +-2\.50  D Undoing is harder", said)
    assert "Table 2 as recorded" not in said  # no result of this run
    assert "every claim: reports/claims.md" in said
    failed = "\n".join(summarise(tmp_path, time.time(), 1))
    assert "dvc ended with 1" in failed
    assert ".visdyn/logs/<stage>.log" in failed
    assert "claims" not in failed


def test_no_verdict_is_typed():
    assert describe_verdicts([]) == ["0 claims"]
