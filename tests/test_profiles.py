"""A profile's params.yaml and dvc.yaml are real files, written from its overrides."""

from __future__ import annotations

import pytest
import yaml

from visdyn.params import ParamsError
from visdyn.paths import repository_root
from visdyn.pipeline.profiles import differences, full_params, profile_files, write_profiles

ROOT = repository_root()
PARAMS = """# The root.
root: .
seed: 0  # of all

idm:  # a section
  base: models/base  # what is fine-tuned
  limits: [1, 2]
  training:
    steps: 10  # many
    rate: 0.1

# between sections
fdm:
  arms:
    - a
    - b
  floor: 0.5  # of the weights
"""


@pytest.fixture
def house(tmp_path):
    """A repository of a root and of what the function is given as the profiles' overrides."""

    def build(**overrides):
        (tmp_path / "params.yaml").write_text(PARAMS)
        (tmp_path / "dvc.yaml").write_text("stages: {}\n")
        for name, text in overrides.items():
            (tmp_path / "profiles" / name).mkdir(parents=True)
            (tmp_path / "profiles" / name / "overrides.yaml").write_text(text)
        return tmp_path

    return build


def test_every_profile_of_the_repository_is_in_step():
    names = {path.parent.name for path in profile_files(ROOT)}
    assert {"smoke", "paper", "paper_liquid"} <= names
    assert names == {path.parent.name for path in ROOT.glob("profiles/*/params.yaml")}
    assert differences(ROOT) == [], "run `visdyn profiles --write`"


def test_overridden_values_stand_in_place_and_comments_survive(house):
    root = house(small="# A small one.\n\nidm:\n  training:\n    steps: 2  # few\n\nfdm:\n  arms: [c]\n")
    expected = PARAMS.replace("# The root.\n", "").replace("root: .", "root: ../..").replace("10  # many", "2  # few")
    lines = full_params(root, "small").splitlines()
    assert "do not edit" in lines[0]
    assert lines[1] == "# A small one."
    assert "\n".join(lines[2:]) + "\n" == expected.replace("arms:\n    - a\n    - b", "arms: [c]")


def test_a_profile_may_have_a_parent(house):
    root = house(
        large="idm:\n  training:\n    steps: 99\n    rate: 0.2\n", larger="parent: large\nfdm:\n  floor: 0.0\n"
    )
    values = yaml.safe_load(full_params(root, "larger"))
    assert values["idm"]["training"] == {"steps": 99, "rate": 0.2}
    assert values["fdm"] == {"arms": ["a", "b"], "floor": 0.0}
    assert "parent" not in values
    assert values["root"] == "../.."


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"one": "idm:\n  trainin:\n    steps: 2\n"}, r"unknown key 'idm\.trainin'; did you mean 'training'"),
        ({"one": "parent: none\n"}, "no parent 'none'"),
        ({"one": "parent: two\n", "two": "parent: one\n"}, "one -> two -> one"),
    ],
)
def test_overrides_that_do_not_fit_are_refused(house, overrides, said):
    with pytest.raises(ParamsError, match=said):
        profile_files(house(**overrides))


def test_writing_replaces_links_and_stale_files_and_leaves_no_difference(house):
    root = house(small="seed: 1\n")
    link = root / "profiles/small/dvc.yaml"
    link.symlink_to("../../dvc.yaml")
    assert {path.name for path in differences(root)} == {"params.yaml", "dvc.yaml"}
    write_profiles(root)
    assert differences(root) == []
    assert not link.is_symlink()
    assert (root / "dvc.yaml").read_text() == "stages: {}\n"
    (root / "dvc.yaml").write_text("stages: {a: {cmd: b}}\n")
    assert differences(root) == [link]
