"""The recipes of docs/extending.md work as printed: one file and one entry make a model, an editor, a metric."""

from __future__ import annotations

import ast
import re
import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from conftest import WORDS, build_tiny_model

from visdyn import models
from visdyn.evaluation.benches.bench_aurora import ForwardEvaluation
from visdyn.evaluation.leaderboard import leaderboard
from visdyn.evaluation.metrics import registry
from visdyn.models import editors
from visdyn.models.token.tokens import build_tokenizer
from visdyn.paths import repository_root
from visdyn.trajectory import ReversiblePair, Trajectory

PAGE = (repository_root() / "docs/extending.md").read_text()


def recipe(heading: str) -> tuple[str, str, str]:
    """Return the file of a recipe as a module's name, its code, and the entry that registers it."""
    section = re.search(rf"^## {heading}$(.*?)(?=^## |\Z)", PAGE, re.M | re.S)[1]
    blocks, lines = [], []
    for line in [*section.splitlines(), "end"]:
        if line.startswith("    ") or (lines and not line):
            lines.append(line[4:])
        elif lines:
            blocks.append("\n".join(lines).strip())
            lines = []
    code, entry = blocks[:2]
    place = re.match(r"# src/(visdyn/\S+)\.py\n", code)
    return place[1].replace("/", "."), code, entry


def install(monkeypatch, heading: str) -> tuple[ModuleType, str]:
    """Import a recipe's file as if it lay in the package; return the module and the entry."""
    name, code, entry = recipe(heading)
    module = ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, name, "exec"), module.__dict__)  # the repository's own documentation
    return module, entry


def test_a_token_model_is_one_file_and_one_entry(monkeypatch, tmp_path, scenes):
    from transformers import LlamaConfig, LlamaForCausalLM

    module, entry = install(monkeypatch, "A model")
    (family, target), *_ = ast.literal_eval(f"{{{entry}}}").items()
    assert target == f"{module.__name__}:LlamaModel"
    monkeypatch.setitem(models.TOKEN_MODELS, family, target)
    tiny = build_tiny_model()
    size = len(build_tokenizer(WORDS, tiny.vqgan.config.n_embed))
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    torch.manual_seed(0)
    module.LlamaModel(LlamaForCausalLM(LlamaConfig(vocab_size=size, **shape)), tiny.builder, tiny.vqgan).save(tmp_path)
    loaded = models.load_model(tmp_path)
    assert type(loaded) is module.LlamaModel
    image = loaded.forward_dynamics.sample(scenes[0], "open the drawer", 1, torch.Generator().manual_seed(0))[0]
    assert image.shape == (16, 16, 3)
    assert loaded.inverse_dynamics.log_likelihood([scenes[0]], [scenes[1]], ["open the drawer"])[0] < 0


def test_an_editor_is_one_file_and_one_entry(monkeypatch, tmp_path, scenes):
    from visdyn.inference.do_undo import do_and_undo

    module, entry = install(monkeypatch, "An image editor")
    (kind, target), *_ = ast.literal_eval(f"{{{entry}}}").items()
    assert target == f"{module.__name__}:NegativeEditor"
    monkeypatch.setitem(editors.EDITORS, kind, target)
    (tmp_path / "config.json").write_text(re.search(r"`(\{.model_type.: .*?\})`", PAGE)[1])
    texts = ("open it", "close it", "open it", "close it")
    pairs = [ReversiblePair(scenes[0], scenes[1], *texts, "open it", "open", "it", "p0")]
    done, undone = do_and_undo(editors.load_editor(tmp_path), pairs, reverse_from="generated")
    np.testing.assert_array_equal(done[0], 255 - scenes[0])
    np.testing.assert_array_equal(undone[0], scenes[0])


def test_a_metric_is_one_file_and_one_entry(monkeypatch, scenes):
    module, entry = install(monkeypatch, "A metric")
    others = {key: entry for key, entry in registry._METRICS.items() if key[1] != "rmse"}  # whoever followed it has one
    monkeypatch.setattr(registry, "_METRICS", others)
    (added,) = eval(f"({entry})", {**vars(registry), "rmse": module.rmse})
    registry.register(added)
    items = [Trajectory(scenes[row], "open", scenes[row + 6], "ag", str(row)) for row in range(6)]
    evaluation = ForwardEvaluation(items, [None] * 6, None, None, None, region=False)
    scores = evaluation.score([*scenes[6:11], scenes[0]])
    values = scores[scores["metric"] == "rmse"]["value"].tolist()
    difference = scenes[0].astype(float) / 255 - scenes[11].astype(float) / 255
    assert values == pytest.approx([0.0] * 5 + [float(np.sqrt((difference**2).mean()))])
    board = leaderboard(scores.assign(system="copy", chain=0).dropna(), "B", "copy", 0)
    assert "rmse" in set(board["metric"])


def test_a_model_outside_the_repository_is_one_file(tmp_path):
    from visdyn.commands.check_plugin import check_file

    section = re.search(r"^## Your own, outside this repository$(.*?)(?=^## )", PAGE, re.M | re.S)[1]
    code = re.search(r"^    # my_model\.py\n(?:    .*\n|\n)+", section, re.M)[0]
    (tmp_path / "my_model.py").write_text("\n".join(line[4:] for line in code.splitlines()) + "\n")
    findings = check_file(str(tmp_path / "my_model.py"), size=16)
    assert {one.subject for one in findings} == {"Brighter as ForwardDynamics"}
    assert all(one.passed for one in findings), findings
