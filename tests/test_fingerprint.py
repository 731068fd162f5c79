"""The fingerprint of a machine's arithmetic: the same in every process, another with other kernels."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from visdyn.pipeline.fingerprint import record_stage, take_fingerprint


@pytest.fixture(scope="module")
def here():
    return take_fingerprint()


def elsewhere(**settings):
    command = [sys.executable, "-m", "visdyn.pipeline.fingerprint"]
    settings = {"VISDYN_PORTABLE": "0"} | settings
    found = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def test_two_processes_of_one_machine_have_one_fingerprint(here):
    assert elsewhere()["fingerprint"] == here.fingerprint


def test_other_kernels_have_another_fingerprint_and_say_which(here):
    other = elsewhere(ATEN_CPU_CAPABILITY="default")
    assert other["settings"] == {"ATEN_CPU_CAPABILITY": "default"}
    assert other["capability"] == "DEFAULT"
    assert other["fingerprint"] != here.fingerprint
    assert other["kernels"]["softmax"] != here.kernels["softmax"]


def test_a_stage_is_recorded_with_its_machine_and_others_stay(tmp_path, here):
    path = tmp_path / "machine.json"
    path.write_text(json.dumps({"machines": {"other": {"cpu": "x"}, "gone": {"cpu": "y"}},
                                "stages": {"idm": "other", "fdm": "gone"}}))  # fmt: skip
    record_stage(path, "fdm", here)
    found = json.loads(path.read_text())
    assert found["stages"] == {"fdm": here.fingerprint, "idm": "other"}
    assert set(found["machines"]) == {"other", here.fingerprint}
    assert found["machines"][here.fingerprint]["cpu"] == here.cpu
    before = path.read_bytes()
    record_stage(path, "fdm", here)
    assert path.read_bytes() == before
