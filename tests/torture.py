"""The standing campaign: wrong input, kills, full disks and hostile servers, counted by family: `make torture`.

    python tests/torture.py [--size ci|day|night] [--seed 0] [--write] [FAMILY ...]

Every case is drawn from the seed, so that a table can be made again. A case *holds* where the kit reads it rightly, or
refuses it in words of its own: an error that a line of the package raised. What escapes from a library, hangs, ends the
process or is silently read as something else does *not hold*, and is printed. A new reader is a function here with
`@family`, which yields cases.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from reliability_page import Result, find_commit, write_results

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"ci": 8, "day": 60, "night": 600}  # cases of a family; what starts processes has a tenth
SECONDS = 60  # that a case may take before it counts as hanging
# Readers whose families are not closed yet: they are counted and shown, and no test waits for them.
OPEN = ()
FOREIGN = (AttributeError, IndexError, KeyError, RecursionError, TypeError, UnicodeError, MemoryError)


@dataclass(frozen=True)
class Case:
    """One thing to try: `run` returns "" where it was read rightly, else what was silently wrong."""

    name: str
    run: Callable[[], str]


@dataclass
class Count:
    """What a family came to; `failures` are the cases that did not hold, each with what happened."""

    tried: int
    held: int
    seconds: float
    failures: list[str]


FAMILIES: dict[str, tuple[Callable[[random.Random, Path], Iterator[Case]], int]] = {}


def family(name: str, divisor: int = 1):
    """Add a generator of cases; it is asked for so many as the size says, over `divisor`."""

    def add(make):
        FAMILIES[name] = make, divisor
        return make

    return add


class Hang(BaseException):
    """A case took longer than `SECONDS`."""


def judge(case: Case) -> str:
    """Run a case; return "" where it held, else what happened in one line."""

    def hang(signum, frame):
        raise Hang

    signal.signal(signal.SIGALRM, hang)
    signal.alarm(SECONDS)
    try:
        return case.run()
    except Hang:
        return f"hangs for {SECONDS} s"
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        own = type(error).__module__.startswith("visdyn.")
        if own or ("/src/visdyn/" in last and not isinstance(error, FOREIGN)):
            return "" if str(error).strip() else f"{type(error).__name__} without a word"
        return f"{type(error).__name__}: {str(error)[:120]}"
    finally:
        signal.alarm(0)


def run(names: list[str], size: str, seed: int) -> dict[str, Count]:
    """Try the families by name; a family's cases do not depend on which others are tried."""
    counts = {}
    for name in names:
        make, divisor = FAMILIES[name]
        wanted, began, failures, tried = max(1, SIZES[size] // divisor), time.monotonic(), [], 0
        with tempfile.TemporaryDirectory(prefix="torture-") as folder:
            cases = make(random.Random(f"{seed}:{name}"), Path(folder))
            for tried, case in zip(range(1, wanted + 1), cases, strict=False):  # noqa: B007
                if said := judge(case):
                    failures.append(f"{case.name}: {said}")
        counts[name] = Count(tried, tried - len(failures), time.monotonic() - began, failures)
    return counts


# ---------------------------------------------------------------- mutations
def mutate_bytes(draw: random.Random, data: bytes) -> tuple[str, bytes]:
    """Return what was done to bytes, and the bytes."""
    at, end = sorted(draw.sample(range(len(data) + 1), 2))
    kinds = {
        "cut": data[:at],
        "slice lost": data[:at] + data[end:],
        "slice zeroed": data[:at] + bytes(end - at) + data[end:],
        "slice doubled": data[:end] + data[at:],
        "noise inserted": data[:at] + draw.randbytes(draw.randrange(1, 200)) + data[at:],
        "bits flipped": bytes(byte ^ (draw.random() < 0.01) * draw.randrange(256) for byte in data),
        "empty": b"",
    }
    kind = draw.choice(list(kinds))
    return kind, kinds[kind]


WEIRD = ("NaN", "-1", "1e999", "null", "[]", "{}", '""', "true", "012", "1:30", "0", "1.5", "&a [*a]", "é", "\u2028",
         "=cmd|' /C calc'!A0", "../../x", "x" * 300, "[" * 3000, "\x00")  # fmt: skip


def mutate_text(draw: random.Random, text: str) -> tuple[str, bytes]:
    """Return what was done to a text of lines, and its bytes."""
    lines = text.splitlines(keepends=True)
    row = draw.randrange(len(lines))
    words = lines[row].split(" ") if " " in lines[row].strip() else lines[row].split(",")
    place, weird = draw.randrange(len(words)), draw.choice(WEIRD)
    glue = " " if " " in lines[row].strip() else ","
    strange = glue.join([*words[:place], weird, *words[place + 1 :]])
    kinds = {
        "line lost": [*lines[:row], *lines[row + 1 :]],
        "line doubled": [*lines[: row + 1], *lines[row:]],
        "lines turned round": lines[::-1],
        f"a word is {weird[:12]!r}": [*lines[:row], strange + "\n" * (not strange.endswith("\n")), *lines[row + 1 :]],
    }
    whole = {"utf-16": text.encode("utf-16"), "latin-1": (text + "é").encode("latin-1"),
             "bom": b"\xef\xbb\xbf" + text.encode(), "nothing": b""}  # fmt: skip
    kind = draw.choice([*kinds, *kinds, *whole, "bytes"])
    if kind == "bytes":
        return mutate_bytes(draw, text.encode())
    return kind, whole[kind] if kind in whole else "".join(kinds[kind]).encode("utf-8", "surrogatepass")


# ---------------------------------------------------------------- readers
@family("images")
def try_images(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Damaged images: read as RGB, or refused."""
    from visdyn.images import load

    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8))
    while True:
        form = draw.choice(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
        buffer = io.BytesIO()
        picture.save(buffer, form)
        kind, data = mutate_bytes(draw, buffer.getvalue())
        path = folder / f"a.{form.lower()}"

        def case(path=path, data=data) -> str:
            path.write_bytes(data)
            image = load(path)
            return "" if image.mode == "RGB" and min(image.size) > 0 else f"mode {image.mode}"

        yield Case(f"{form}, {kind}", case)


@family("json")
def try_json(draw: random.Random, folder: Path) -> Iterator[Case]:
    """AURORA's test.json, damaged: items of the right types, the others set aside."""
    from visdyn.datasets.aurora import load_bench
    from visdyn.quarantine import Quarantine

    items = [{"instruction": f"open it {n}", "input": "a.png", "output": "a.png", "task": "ag"} for n in range(4)]
    text = json.dumps(items, indent=1)
    Image.new("RGB", (8, 8)).save(folder / "a.png")
    while True:
        kind, data = mutate_text(draw, text)

        def case(data=data) -> str:
            (folder / "test.json").write_bytes(data)
            found = load_bench(folder, quarantine=Quarantine())
            return "" if all(isinstance(one.action, str) and one.action for one in found) else "an item without words"

        yield Case(kind, case)


@family("csv")
def try_csv(draw: random.Random, folder: Path) -> Iterator[Case]:
    """EPIC-KITCHENS' segments, damaged."""
    from visdyn.datasets.epic_kitchens import load_segments

    head = ("narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,"
            "stop_frame,narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes\n")  # fmt: skip
    rows = [f"P01_01_{n},P01,P01_01,00:00:01.00,00:00:01.00,00:00:02.00,60,120,open door,open,3,door,8,['door'],[8]\n"
            for n in range(4)]  # fmt: skip
    while True:
        kind, data = mutate_text(draw, head + "".join(rows))

        def case(data=data) -> str:
            (folder / "epic.csv").write_bytes(data)
            found = load_segments(folder / "epic.csv")
            return "" if all(one.start_frame >= 0 for one in found) else "a frame below 0"

        yield Case(kind, case)


@family("params")
def try_params(draw: random.Random, folder: Path) -> Iterator[Case]:
    """params.yaml, damaged: refused in words, or still one that fits its types."""
    from visdyn.params import load_params

    text = (ROOT / "params.yaml").read_text()
    while True:
        kind, data = mutate_text(draw, text)

        def case(data=data) -> str:
            (folder / "params.yaml").write_bytes(data)
            before = os.environ.get("VISDYN_ROOT")
            os.environ["VISDYN_ROOT"] = str(folder)
            try:
                load_params()
            finally:
                os.environ.pop("VISDYN_ROOT") if before is None else os.environ.update(VISDYN_ROOT=before)
            return ""

        yield Case(kind, case)


@family("values")
def try_values(draw: random.Random, folder: Path) -> Iterator[Case]:
    """One value of params.yaml, replaced by a strange one: refused in words, or taken as it stands, and finite."""
    from visdyn.params import Params
    from visdyn.params.reading import from_mapping
    from visdyn.yaml_files import parse_yaml

    text = (ROOT / "params.yaml").read_text()
    places = list(_list_leaves(parse_yaml(text, "params.yaml")))
    strange = (
        float("nan"),
        float("inf"),
        -1,
        0,
        1e9,
        2.5,
        True,
        "",
        "x",
        "../..",
        "\x00",
        [],
        {},
        [[]],
        None,
        [-1],
        10**30,
    )
    while True:
        place, value = draw.choice(places), draw.choice(strange)

        def case(place=place, value=value) -> str:
            values = parse_yaml(text, "params.yaml")
            values.pop("root", None)
            owner = values
            for key in place[:-1]:
                owner = owner[key]
            owner[place[-1]] = value
            read = from_mapping(Params, values, "params.yaml")
            if isinstance(value, float) and value != value:
                return "not a number is taken for one"
            for key in place:
                read = read[key] if isinstance(read, (dict, tuple)) else getattr(read, key)
            same = value == (list(read) if isinstance(read, tuple) else read) and isinstance(read, bool) == isinstance(
                value, bool
            )
            return "" if same else f"read as {read!r}"

        yield Case(f"{'.'.join(map(str, place))} is {str(value)[:20]!r}", case)


def _list_leaves(values, place: tuple = ()) -> Iterator[tuple]:
    for key, value in values.items() if isinstance(values, dict) else enumerate(values):
        if isinstance(value, (dict, list)) and value:
            yield from _list_leaves(value, (*place, key))
        elif (*place, key) != ("root",):
            yield (*place, key)


@family("weights", divisor=2)
def try_weights(draw: random.Random, folder: Path) -> Iterator[Case]:
    """A tiny checkpoint with lost, misnamed, misshapen, damaged weights: refused, or the model that was meant."""
    from conftest import build_tiny_model
    from safetensors.torch import load_file, save_file

    from visdyn.models import load_model

    good = folder / "good"
    build_tiny_model().save(good)
    tensors = load_file(good / "model.safetensors")
    images = [Image.fromarray(np.random.default_rng(n).integers(0, 256, (16, 16, 3), dtype=np.uint8)) for n in range(2)]

    def likelihood(path: Path) -> float:
        return float(load_model(path).forward_dynamics.log_likelihood(images[:1], ["open the cup"], images[1:])[0])

    meant = likelihood(good)
    names, kinds = sorted(tensors), ("lost", "misnamed", "misshapen", "not a number")
    while True:
        kind = draw.choice([*kinds, "prefixed", "layers", "width", "header", "cut", "pointer", "empty", "settings"])
        name, at, noise = draw.choice(names), draw.random(), draw.randbytes(8)
        strange = mutate_text(draw, (good / "config.json").read_text())[1]

        def case(kind=kind, name=name, at=at, noise=noise, strange=strange) -> str:
            bad = folder / "bad"
            shutil.rmtree(bad, ignore_errors=True)
            shutil.copytree(good, bad)
            weights, file = dict(tensors), bad / "model.safetensors"
            settings = json.loads((bad / "config.json").read_text())
            if kind == "lost":
                del weights[name]
            elif kind == "misnamed":
                weights[name + "_"] = weights.pop(name)
            elif kind == "misshapen":
                weights[name] = weights[name].repeat(2, *[1] * (weights[name].dim() - 1))
            elif kind == "not a number":
                weights[name] = weights[name].clone().float()
                weights[name].view(-1)[int(at * weights[name].numel())] = float("nan")
            elif kind == "prefixed":
                weights = {f"module.{key}": value for key, value in weights.items()}
            save_file(weights, file, metadata={"format": "pt"})
            data = file.read_bytes()
            if kind == "header":
                place = int(at * 200)
                file.write_bytes(data[:place] + noise + data[place + 8 :])
            elif kind == "cut":
                file.write_bytes(data[: int(at * len(data))])
            elif kind == "pointer":
                file.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n")
            elif kind == "empty":
                file.write_bytes(b"")
            elif kind == "layers":
                settings["num_hidden_layers"] += 1 if at > 0.5 else -1
            elif kind == "width":
                settings["intermediate_size"] += 8
            if kind in ("layers", "width"):
                (bad / "config.json").write_text(json.dumps(settings))
            elif kind == "settings":
                (bad / "config.json").write_bytes(strange)
            found = likelihood(bad)
            if kind == "settings":  # another constant is another model, and nobody can tell that it was not meant
                return "" if np.isfinite(found) else "loads, and has no likelihood"
            return "" if abs(found - meant) < 1e-4 else f"loads, with a likelihood of {found:.4f} for {meant:.4f}"

        yield Case(f"{kind} ({name})" if kind in kinds else kind, case)


@family("videos", divisor=2)
def try_videos(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Damaged videos: frames of one size, no more than were written, or refused."""
    import cv2

    from visdyn.videos import stream_video

    frames = np.random.default_rng(0).integers(0, 256, (12, 48, 64, 3), dtype=np.uint8)
    whole = {}
    for suffix, code in ((".mp4", "mp4v"), (".avi", "MJPG")):
        path = folder / f"whole{suffix}"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*code), 10.0, (64, 48))
        for frame in frames:
            writer.write(frame)
        writer.release()
        whole[suffix] = path.read_bytes()
    while True:
        suffix = draw.choice(sorted(whole))
        kind, data = mutate_bytes(draw, whole[suffix])
        path = folder / f"a{suffix}"

        def case(path=path, data=data) -> str:
            path.write_bytes(data)
            shapes = [frame.shape for frame in stream_video(path)]
            if len(shapes) > 2 * len(frames):  # a doubled slice may hold frames again
                return f"{len(shapes)} frames of {len(frames)}"
            return "" if shapes and len(set(shapes)) == 1 else f"frames of {sorted(set(shapes))}"

        yield Case(f"{suffix}, {kind}", case)


@family("results")
def try_results(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Results edited by hand, beside the dvc.lock of their run: refused, or said to be edited."""
    from visdyn.reporting.results import Results

    source = ROOT / "reports/results"
    shutil.copy(ROOT / "dvc.lock", folder)
    names = [f"{path.parent.name}/{path.name}" for stage in ("fdm", "idm", "idm_evaluation", "doundo", "annotation")
             for path in sorted((source / stage).glob("*.csv")) if path.stat().st_size > 200]  # fmt: skip
    for stage in {Path(name).parts[0] for name in names}:
        shutil.copytree(source / stage, folder / "reports/results" / stage)
    results = Results(folder, repository=folder)
    while True:
        name = draw.choice(names)
        text = (source / name).read_text()
        kind, data = mutate_text(draw, text)

        def case(name=name, text=text, data=data) -> str:
            path = folder / "reports/results" / name
            path.write_bytes(data)
            try:
                results.read(name)
                unseen = data != text.encode() and not results.edited([name])
                return "read as if nothing had been done to it" if unseen else ""
            finally:
                path.write_text(text)

        yield Case(f"{name}, {kind}", case)


@family("replies")
def try_replies(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Judges' words, damaged: two scores from 0 to 10, or none; nothing raised."""
    from visdyn.evaluation.judges import read_answer

    whole = '```json\n{"reasoning": "the drawer is open", "score": [7, 9]}\n```'
    while True:
        kind, data = mutate_text(draw, whole)

        def case(data=data) -> str:
            scores, reason = read_answer(data.decode("utf-8", "replace"))
            if scores is None:
                return "" if reason else "refused without a reason"
            return "" if all(0 <= score <= 10 for score in scores) else f"scores {scores}"

        yield Case(kind, case)


# ---------------------------------------------------------------- servers, kills, disks, people
@family("servers", divisor=4)
def try_servers(draw: random.Random, folder: Path) -> Iterator[Case]:
    """An endpoint that fails at random, for a while: the right reply in the end, or a refusal; never the key."""
    from fake_endpoint import KEY, FakeEndpoint, ask, completion

    faults = {
        "500": (500, {}, "{}"), "429": (429, {"Retry-After": "0"}, "{}"), "no JSON": (200, {}, "<html>busy</html>"),
        "cut": (200, {"x-cut": "1"}, completion("x")[2]), "empty": (200, {}, ""), "a list": (200, {}, "[]"),
        "the key back": (401, {}, f'{{"error": "wrong key {KEY}"}}'), "404": (404, {}, "not here"),
        "no choices": (200, {}, '{"choices": []}'), "deep": (200, {}, "[" * 5000),
        "moved": (302, {"Location": "/x"}, ""),
    }  # fmt: skip
    while True:
        script = [draw.choice(list(faults)) for _ in range(draw.randrange(1, 5))]

        def case(script=tuple(script)) -> str:
            def answer(name, nth, repeat):
                return faults[script[nth - 1]] if nth <= len(script) else completion("as asked")

            server = FakeEndpoint(answer)
            os.environ["JUDGE_KEY"] = KEY
            try:
                reply = ask(server)
                said = f"{reply.text} {reply.finish_reason}"
            except Exception as error:
                said = f"{error} {getattr(error, 'attempts', '')}"
                if KEY in said:
                    return "the key comes back in the error"
                raise
            finally:
                del os.environ["JUDGE_KEY"]
                server.shutdown()
                server.server_close()
            return "the key comes back in the reply" if KEY in said else ""

        yield Case(" then ".join(script), case)


ENDS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)
WRITER = """
import sys
from visdyn.paths import write_atomically
for number in range(20_000):
    write_atomically(sys.argv[1], bytes([number % 256]) * 200_000)
    if not number:
        print("writing", flush=True)
"""


@family("kills", divisor=4)
def try_kills(draw: random.Random, folder: Path) -> Iterator[Case]:
    """kill -9 while a file is written again and again: it is one that was meant, whole."""
    path = folder / "kept"
    while True:
        pause = draw.uniform(0, 0.3)

        def case(pause=pause) -> str:
            writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE)
            writer.stdout.readline()
            time.sleep(pause)
            writer.kill()
            writer.communicate()
            content = path.read_bytes()
            return "" if len(content) == 200_000 and len(set(content)) == 1 else "the file is torn"

        yield Case(f"after {pause:.2f} s", case)


# Stands for DVC: notes what it writes, and starts the stage by a shell that stays between the two.
DVC = """
import json, os, pathlib, subprocess, sys
note = {"pid": os.getpid(), "cmd": "dvc repro"}
pathlib.Path(".dvc/tmp/rwlock").write_text(json.dumps({"write": {os.getcwd() + "/models/fdm": note}, "read": {}}))
command = f"{sys.executable} -m visdyn.pipeline fdm; true"
subprocess.run(command, shell=True, env={**os.environ, "DVC_STAGE": "fdm", "DVC_ROOT": os.getcwd()})
"""


@family("dvc ended early", divisor=15)
def try_dvc_ended(draw: random.Random, folder: Path) -> Iterator[Case]:
    """DVC is ended in the first seconds of a stage, which would take minutes: nothing of the stage goes on."""
    from repro_runs import MARK, find_marked
    from toy import make_repository

    root = make_repository(folder / "repository", "import time; time.sleep(300)")
    (root / ".dvc/tmp").mkdir(parents=True)
    left_out = ("DVC_", "VISDYN_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    environment |= {"VISDYN_ROOT": str(root), "PYTHONPATH": str(ROOT / "src")}
    for number in range(10**9):
        second, signum = draw.choice((0.0, draw.uniform(0, 1), draw.uniform(0, 10))), draw.choice(ENDS)

        def case(number=number, second=second, signum=signum) -> str:
            token = f"{os.getpid()}-{number}"
            dvc = subprocess.Popen([sys.executable, "-c", DVC], cwd=root, env=environment | {MARK: token},
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # fmt: skip
            while len(find_marked(token)) < 3 and dvc.poll() is None:  # DVC, the shell, the runner
                time.sleep(0.01)
            time.sleep(second)
            if dvc.poll() is not None:
                return "the stage ended by itself"
            dvc.send_signal(signum)
            dvc.wait()
            deadline = time.monotonic() + SECONDS / 2
            while (left := find_marked(token)) and time.monotonic() < deadline:
                time.sleep(0.1)
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            return f"{len(left)} processes went on without DVC" if left else ""

        yield Case(f"{signum.name} after {second:.2f} s", case)


@family("full disks", divisor=4)
def try_full_disks(draw: random.Random, folder: Path) -> Iterator[Case]:
    """A file may not grow (as on a full disk) while a record is written: the old one stands, the cause is named."""
    from visdyn.pipeline import kernel
    from visdyn.pipeline.console import Console, Place

    while True:
        room = draw.randrange(0, 4000)

        def case(room=room) -> str:
            path = folder / "out/a.ipynb"
            shutil.rmtree(folder / "out", ignore_errors=True)
            run_of = kernel.Kernel(folder / "a.ipynb", path, {}, folder / "log", folder / "timings.json")
            notebook = {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}
            before = resource.getrlimit(resource.RLIMIT_FSIZE)
            old, handler = kernel._execute_cells, signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

            def fill(run, console):
                run.output.write_text(json.dumps(notebook))
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
                return "cell 3 failed with OSError: No space left on device"

            kernel._execute_cells = fill
            try:
                said = kernel.execute(run_of, Console(Place("a"), folder / "log", stream=io.StringIO()))
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
                signal.signal(signal.SIGXFSZ, handler)
                kernel._execute_cells = old
            json.loads(path.read_text())  # whole, old or new
            return (
                "" if said.startswith("cell 3 failed with OSError: No space left") else f"the cause is hidden: {said}"
            )

        yield Case(f"{room} bytes are left", case)


@family("unblinding", divisor=4)
def try_unblinding(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Who has code, items, seed and number names the systems behind the letters: as chance has it."""
    import toy_study

    from visdyn.human_study.plan import plan
    from visdyn.human_study.study import load_study
    from visdyn.human_study.study_store import Store

    study = load_study(toy_study.best_worst(folder / "study", per_subset=6))
    for number in range(10**9):

        def case(number=number) -> str:
            store = Store(folder / f"{number}.sqlite", study.fingerprint)
            right = pages = 0
            for annotator in range(1, 21):
                public = {task.item.key: task.shown for task in plan(study, annotator)}
                for task in plan(study, annotator, store.draw):
                    right += task.shown == public[task.item.key]
                    pages += 1
            # 240 pages at 1 in 24: ten are expected, thirty are never seen
            return "" if right < 30 else f"{right} of {pages} pages named"

        yield Case(f"study {number}", case)


@family("floods", divisor=4)
def try_floods(draw: random.Random, folder: Path) -> Iterator[Case]:
    """Sessions, guesses, connections and forms beyond all bounds: refused, and the others are still served."""
    import toy_study
    from human_site import TOKEN, Site, ranked

    from visdyn.human_study import app
    from visdyn.human_study.security import MAX_BODY

    served = toy_study.best_worst(folder / "study")
    most = 10  # sessions, and guesses, instead of the study's own hundred, which take seconds

    def open_site(number: int, token: str | None = None) -> Site:
        study = folder / f"study-{number}"
        shutil.copytree(served, study)
        before = app.MAX_JOINS, app.MAX_GUESSES
        app.MAX_JOINS = app.MAX_GUESSES = most
        try:
            return Site(study, token=token)
        finally:
            app.MAX_JOINS, app.MAX_GUESSES = before

    def join_often(number: int, many: int) -> str:
        site = open_site(number)
        answers = [site.client().join().status_code for _ in range(most + many)]
        kept = len(site.store.annotators())
        wanted = [303] * most + [429] * many
        return "" if answers == wanted and kept == most else f"{kept} sessions of {len(answers)} asked for"

    def guess(number: int, many: int) -> str:
        path = ("/enter?token=guess-{}", "/resume/guess-{}", "/progress/guess-{}")[number % 3]
        client = open_site(number, TOKEN).client()
        answers = [client.get(path.format(one)).status_code for one in range(most + many)]
        right = client.get(f"/enter?token={TOKEN}").status_code
        slowed = set(answers[most:]) | {right} == {429} and not {200, 303} & set(answers)
        return "" if slowed else f"{path}: answered with {sorted({*answers, right})}"

    def send_bodies(number: int, many: int) -> str:
        site = open_site(number)
        client = site.client()
        client.join()
        large = client.post("/task/1", ranked() | {"seen.overall": "0" * (MAX_BODY + many * 1000)}).status_code
        answers = {client.post("/task/1", ranked(2, 0)).status_code for _ in range(many)}
        kept = len(site.store.answers())
        return "" if large == 413 and kept == 1 and answers == {303} else f"{large}, {answers}: {kept} answers of one"

    def hold_connections(number: int, many: int) -> str:
        start = b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: 1\r\n"[: number * 7 % 45]
        return _hold_connections(open_site(number), 1 + many % 5, start)

    for number in range(10**9):
        kind, many = draw.choice((join_often, guess, send_bodies, hold_connections)), draw.randrange(1, 20)
        yield Case(f"{kind.__name__}, {many} too many", lambda kind=kind, number=number, many=many: kind(number, many))


def _hold_connections(site, most: int, said: bytes) -> str:
    """Open as many connections as an address may have, say the start of a request, and try one more."""
    import asyncio
    import socket
    import threading

    import uvicorn

    from visdyn.human_study.connections import BoundedProtocol

    class Hurried(BoundedProtocol):
        header_seconds, per_address = 0.5, most

    def connect() -> socket.socket:
        return socket.create_connection(listener.getsockname(), timeout=20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(site.app, http=Hurried, log_level="critical", ws="none"))
        thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])), daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.02)
        silent = [connect() for _ in range(most)]
        try:
            for connection in silent:
                connection.sendall(said)
            with connect() as further:
                refused = further.recv(10) == b""
            closed = all(connection.recv(10) == b"" for connection in silent)
            with connect() as visitor:
                visitor.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                served = visitor.recv(12) == b"HTTP/1.1 200"
        finally:
            for connection in silent:
                connection.close()
            server.should_exit = True
            thread.join(30)
    return "" if refused and closed and served else f"one more refused: {refused}, silent closed: {closed}, {served}"


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 where something of a closed family did not hold."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", metavar="FAMILY", help=f"of {', '.join(FAMILIES)} (default: all)")
    parser.add_argument("--size", choices=list(SIZES), default="day")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write", action="store_true", help="put the numbers into docs/reliability.csv and its page")
    options = parser.parse_args(arguments)
    if unknown := set(options.families) - set(FAMILIES):
        parser.error(f"no family is called {', '.join(sorted(unknown))}")
    counts = run(options.families or list(FAMILIES), options.size, options.seed)
    if options.write:
        commit = find_commit()
        write_results([Result(name, count.tried, count.held, options.size, options.seed, commit)
                       for name, count in counts.items()])  # fmt: skip
    print(f"{'family':<12}{'tried':>7}{'held':>7}{'seconds':>9}   (size {options.size}, seed {options.seed})")
    for name, count in counts.items():
        print(f"{name:<12}{count.tried:>7}{count.held:>7}{count.seconds:>9.1f}" + "   open" * (name in OPEN))
    for name, count in counts.items():
        for line in count.failures:
            print(f"  {name}: {line}")
    return int(any(count.failures for name, count in counts.items() if name not in OPEN))


if __name__ == "__main__":
    sys.exit(main())
