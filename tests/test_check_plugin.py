"""`visdyn check`: what a file of one's own holds, and what is said where it does not fit."""

from __future__ import annotations

from pathlib import Path

import pytest

from visdyn.commands.check_plugin import check_file, main
from visdyn.plugins import PluginError

GOOD = str(Path(__file__).with_name("own_models.py"))
HEAD = "import numpy as np\nimport torch\nfrom visdyn.images import load\n"


def findings_of(tmp_path, source, **options):
    path = tmp_path / "mine.py"
    path.write_text(HEAD + source)
    return check_file(str(path), 16, **options)


def test_each_thing_of_a_file_is_tried_as_what_it_is(capsys):
    assert main([GOOD, "--size", "16"]) == 0
    said = capsys.readouterr().out
    for subject in ("Brightener as ForwardDynamics", "Reader as InverseDynamics", "Both as ForwardDynamics",
                    "Both as InverseDynamics", "Negative as ImageEditor", "Fair as AnsweringJudge", "Pairs as Bench",
                    "RMSE as Metric"):  # fmt: skip
        assert f"ok      {subject}: " in said
    assert "ok      Sampleless: left alone" in said
    assert "FAILED" not in said
    assert said.splitlines()[-1].endswith(" 0 failed")


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("class A:\n    def __init__(self, folder):\n        pass\n", "cannot be made: TypeError"),
        (
            "class A:\n"
            "    def log_likelihood(self, sources, actions, targets):\n        return [0.0] * len(sources)\n"
            "    def sample(self, source, action, num_samples, generator=None):\n        return []\n",
            "gives list (); asked is a float tensor (3,)",
        ),
        (
            "class A:\n"
            "    def log_likelihood(self, sources, actions, targets):\n"
            "        return torch.linspace(-1, 0, len(sources))\n"
            "    def sample(self, source, action, num_samples, generator=None):\n"
            "        return [np.random.randint(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(num_samples)]\n",
            "asked alone differs by 1 nats",
        ),
        (
            "class A:\n"
            "    def log_likelihood(self, sources, actions, targets):\n        return -torch.ones(len(sources))\n"
            "    def sample(self, source, action, num_samples, generator=None):\n"
            "        return [np.random.randint(0, 256, (8, 8, 3), dtype=np.uint8) for _ in range(num_samples)]\n",
            "the same generator gives other images",
        ),
        (
            "class A:\n    def edit(self, sources, prompts, seeds, steps=None, guidance=None):\n"
            "        return [np.zeros((8, 8, 3)) for _ in sources]\n",
            "asked are 3 uint8 arrays",
        ),
        (
            "class A:\n    def answer(self, images, prompt, seed):\n        return 'rather nice'\n",
            "no score",
        ),
        (
            "class A:\n    def answer(self, images, prompt, seed):\n        return images[7]\n",
            "raised IndexError: list index out of range",
        ),
        (
            "from visdyn.evaluation.metrics.registry import AURORA, PIXELS, Metric\n"
            "A = Metric('a', AURORA, True, 'intensity', PIXELS, 'A', compute=lambda one, other: float(\n"
            "    np.abs(np.asarray(load(one), float) - np.asarray(load(other), float)).mean()))\n",
            "more is said to be better",
        ),
    ],
)
def test_what_does_not_fit_fails_with_what_is_asked(tmp_path, source, said):
    failed = [str(one) for one in findings_of(tmp_path, source) if not one.passed]
    assert failed
    assert any(said in line for line in failed), failed
    assert main([str(tmp_path / "mine.py"), "--size", "16"]) == 1


def test_a_file_without_anything_of_use_is_refused(tmp_path):
    with pytest.raises(PluginError, match="holds no model, editor, judge, metric or benchmark"):
        findings_of(tmp_path, "VALUE = 3\n")
    with pytest.raises(PluginError, match="there is no file"):
        check_file(str(tmp_path / "nowhere.py"))
