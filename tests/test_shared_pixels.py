"""Pixels of others' data reach neither git nor `dvc push` unless someone asks."""

from __future__ import annotations

import subprocess

import pytest
import yaml

from visdyn.params import load_params
from visdyn.paths import repository_root
from visdyn.pipeline.profiles import SHOWS_PIXELS, profile_files

ROOT = repository_root()
PROFILES = sorted(path.parent.name for path in ROOT.glob("profiles/*/overrides.yaml"))
EXTERNAL = [name for name in PROFILES if load_params(f"profiles/{name}").world.kind != "kitchen"]
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".npz", ".npy", ".mp4", ".avi", ".webm")


def outputs(stages):
    """Return each output that DVC keeps, and whether it is pushed."""
    found = {}
    for entry in yaml.safe_load(stages)["stages"].values():
        for out in entry.get("outs", ()):
            path, options = next(iter(out.items())) if isinstance(out, dict) else (out, {})
            found[path] = options.get("push", True)
    return found


@pytest.mark.parametrize("name", EXTERNAL)
def test_outputs_of_real_data_that_show_pixels_are_not_pushed(name):
    assert len(EXTERNAL) >= 3
    kept = outputs((ROOT / f"profiles/{name}/dvc.yaml").read_text())
    shown = {path for path in kept if path.startswith(SHOWS_PIXELS)}
    assert {"data/generated/evaluation", "data/generated/outputs/doundo", "data/mined"} <= shown
    assert not any(kept[path] for path in shown)
    assert kept["models/fdm"]  # weights are


def test_the_rendered_world_is_pushed_and_a_profile_may_ask(tmp_path):
    assert all(outputs((ROOT / "dvc.yaml").read_text()).values())
    assert all(outputs((ROOT / "profiles/smoke/dvc.yaml").read_text()).values())
    for file in ("dvc.yaml", "params.yaml", "profiles/paper/overrides.yaml"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text((ROOT / file).read_text())
    for name, text in (("child", "parent: paper\n"), ("open", "parent: paper\nshare_pixels: true\n")):
        (tmp_path / "profiles" / name).mkdir()
        (tmp_path / "profiles" / name / "overrides.yaml").write_text(text)
    written = {path.parent.name: text for path, text in profile_files(tmp_path).items() if path.name == "dvc.yaml"}
    assert not outputs(written["child"])["data/generated/evaluation"]  # as its parent
    assert all(outputs(written["open"]).values())


def test_git_takes_no_figure_of_a_profile_and_holds_pictures_of_the_rendered_world_alone():
    for path in ("figures/b_figure6.png", "index.html"):
        asked = ["git", "check-ignore", "--quiet", "--no-index", f"profiles/paper/reports/{path}"]
        assert subprocess.run(asked, cwd=ROOT, check=False).returncode == 0, path
    held = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    pictures = [path for path in held if path.lower().endswith(PICTURES)]
    assert pictures
    own = ("reports/figures/", "docs/images/", "data/pack/")
    assert [path for path in pictures if not path.startswith(own)] == []
