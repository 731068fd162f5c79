"""One reader of YAML: what DVC reads, else one sentence of bounded length, in bounded time."""

from __future__ import annotations

import ast
import time

import pytest

from visdyn.paths import repository_root
from visdyn.yaml_files import DEEPEST, LARGEST, MOST_VALUES, YamlError, clipped, parse_yaml, read_yaml, yaml_text

ROOT = repository_root()
NINE = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


def test_what_the_two_versions_of_yaml_read_otherwise_is_read_as_dvc_does():
    ours = parse_yaml("a: 012\nb: 1:30\nc: no\nd: on\ne: 2e-3\nf: 0o14\ng: 1_000\n", "p.yaml")
    assert ours == {"a": 12, "b": "1:30", "c": "no", "d": "on", "e": 0.002, "f": 12, "g": 1000}


@pytest.mark.parametrize("path", ["params.yaml", "dvc.yaml", "hardware/cpu_ranks.yaml", "data/choices.yaml"])
def test_the_kits_own_files_are_read_as_dvc_reads_them(path):
    from dvc.utils.serialize import load_yaml

    assert read_yaml(ROOT / path) == load_yaml(ROOT / path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\na: 2\n", "p.yaml line 2, column 1 is no valid YAML: found duplicate key"),
        ("a: {b: 1, b: 2}\n", "found duplicate key"),
        ("a: [1\n", "p.yaml line 2"),
        ("a: 1\n---\nb: 2\n", "another document"),
        ("seed: " + "[" * 5000, f"is nested more than {DEEPEST} deep"),
        ("seed: " + "[" * 5000 + "]" * 5000, f"is nested more than {DEEPEST} deep"),
        ("- " * 5000, f"is nested more than {DEEPEST} deep"),
        ("{" * 5000, f"is nested more than {DEEPEST} deep"),
        (NINE + "seed: *i\n", f"has more than {MOST_VALUES:,} values, aliases written out"),
        (NINE + "seed: {<<: {a: *i}}\n", f"has more than {MOST_VALUES:,} values"),
        ("a: [" + "1, " * MOST_VALUES + "1]", f"has more than {MOST_VALUES:,} values"),
        ("a: &a [*a]\n", "*a stands for nothing before it"),
        ("a: *b\n", "found undefined alias 'b'"),
        ("a: 2026-01-01\n", "'a' is datetime.date(2026, 1, 1) (date), no plain value; quote it"),
        ("a: {b: [!!binary aGk=]}\n", "'a.b[0]' is b'hi' (bytes)"),
        ("a: !!set {x}\n", "(set), no plain value"),
        ("1: a\n", "has the key 1 (int); keys are text"),
        ("a: {null: 1}\n", "'a' has the key None (NoneType)"),
        ("? [a, b]\n: 1\n", "keys are text"),
        ("a: !!python/object/apply:os.system [ls]\n", "could not determine a constructor"),
        ("a: !!int x\n", "is no valid YAML"),
        ("a: " + "9" * 5000, "is no valid YAML"),
        ("a: 2026-99-99\n", "is no valid YAML"),
        ("a: \x00\n", "is no valid YAML"),
        ("\ta: 1\n", "is no valid YAML"),
        ("'" + "k" * 999 + "': &x 1\n'" + "k" * 999 + "': 1\n", "found duplicate key"),
    ],
)
def test_what_cannot_be_read_is_refused_in_one_short_sentence_at_once(text, said):
    began = time.process_time()
    with pytest.raises(YamlError) as caught:
        parse_yaml(text, "p.yaml")
    assert said in str(caught.value)
    assert str(caught.value).startswith("p.yaml")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert time.process_time() - began < 30


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("seed: 0 # für\n".encode("latin-1"), "is no UTF-8 text (byte 11); save it as UTF-8"),
        ("seed: 0\n".encode("utf-16"), "is no UTF-8 text (byte 0)"),
        (b"#" * (LARGEST + 1), "a file of settings has at most"),
    ],
)
def test_a_file_of_another_encoding_or_size_is_named(tmp_path, content, said):
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(YamlError) as caught:
        read_yaml(tmp_path / "p.yaml")
    assert said in str(caught.value)
    assert str(tmp_path / "p.yaml") in str(caught.value)


def test_a_byte_order_mark_is_passed_by(tmp_path):
    (tmp_path / "p.yaml").write_text("seed: 3\n", encoding="utf-8-sig")
    assert read_yaml(tmp_path / "p.yaml") == {"seed": 3}


def test_what_a_reader_changes_reaches_no_other():
    first = parse_yaml("a: [1]\n", "p.yaml")
    first["a"].append(2)
    assert parse_yaml("a: [1]\n", "p.yaml") == {"a": [1]}


def test_what_is_written_is_read_as_the_same():
    names = [
        "1e3",
        "012",
        "0o14",
        "on",
        "no",
        "null",
        "~",
        "2026-01-01",
        "x: y",
        "- a",
        "# b",
        "é\u2028",
        "a\nb",
        "",
        " a",
    ]
    value = {"title": "z", "names": names, "numbers": [1, 1.5, None, True], "empty": {}, "before": {"b": 1, "a": 2}}
    again = parse_yaml(yaml_text(value), "p.yaml")
    assert again == value
    assert list(again["before"]) == ["b", "a"]


def test_values_are_clipped():
    nested = [[]]
    for _ in range(40):
        nested = [nested] * 9
    assert len(clipped(nested)) <= 120
    assert len(clipped("x" * 10**6)) <= 120
    assert clipped("farnebeck") == "'farnebeck'"


def test_no_other_module_reads_yaml():
    """PyYAML reads YAML 1.1; profiles takes only the names of nodes."""
    found = {
        (str(path.relative_to(ROOT / "src/visdyn")), module)
        for path in (ROOT / "src").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
        if module.split(".")[0] in ("yaml", "ruamel", "_yaml", "omegaconf", "oyaml")
    }  # fmt: skip
    assert {name for name, _ in found} == {"yaml_files.py", "pipeline/profiles.py"}
    assert {module for name, module in found if name != "yaml_files.py"} == {"ruamel.yaml.nodes"}
