"""Result tables: what is not declared can neither be written nor read, and an unknown number stays unknown."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from visdyn.paths import repository_root
from visdyn.result_tables import TABLES, ResultTableError, check_columns, read_columns

NAME = "annotation/pairs.csv"


def pairs(**changed) -> pd.DataFrame:
    values = {"chain": 0, "dataset": "ucf", "class": "open", "video": "7", "pair": "0-51", "action": "open the drawer",
              "log_likelihood": -0.5, "selected": 1, "true_action": "", "correct": np.nan}  # fmt: skip
    return pd.DataFrame([values | changed])


@pytest.mark.parametrize("name", TABLES)
def test_the_results_in_git_are_as_declared(name):
    path = repository_root() / "reports/results" / name
    check_columns(name, read_columns(name, path))


@pytest.mark.parametrize("unknown", [np.nan, None, "", pd.NA])
def test_an_unknown_number_is_written_and_read_as_unknown(unknown, tmp_path):
    table = pd.concat([pairs(correct=unknown), pairs(correct=1, pair="51-60")])
    check_columns(NAME, table)
    table.to_csv(tmp_path / "pairs.csv", index=False)
    read = read_columns(NAME, tmp_path / "pairs.csv")
    assert np.isnan(read["correct"].iloc[0])
    assert read["correct"].iloc[1] == 1
    assert (read["selected"].dtype, read["log_likelihood"].dtype) == (np.int64, np.float64)
    assert read[["video", "pair", "true_action"]].iloc[0].tolist() == ["7", "0-51", ""]


def test_nullable_integers_pass():
    check_columns(NAME, pairs().assign(correct=pd.array([pd.NA], dtype="Int64")))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pairs().assign(colour="red"), f"{NAME} has the columns colour, not declared"),
        (pairs().drop(columns="pair"), f"{NAME} lacks the columns pair"),
        (pairs()[[*reversed(TABLES[NAME])]], f"{NAME} has its columns in the order correct"),
        (pairs(log_likelihood="likely"), f"{NAME}, column log_likelihood: 'likely' where a number belongs"),
        (pairs(selected=2), f"{NAME}, column selected: 2 where 0 or 1 belongs"),
        (pairs(selected=True), f"{NAME}, column selected: True where 0 or 1 belongs"),
        (pairs().astype({"selected": object}).assign(selected=[True]), "True where 0 or 1 belongs"),
    ],
)
def test_what_is_not_declared_is_refused_by_name(table, message):
    with pytest.raises(ResultTableError) as refused:
        check_columns(NAME, table)
    assert message in str(refused.value)


def test_a_count_is_a_whole_number_and_a_file_must_be_declared(tmp_path):
    with pytest.raises(ResultTableError, match=r"world/counts\.csv, column count: 1\.5 where a whole number belongs"):
        check_columns("world/counts.csv", pd.DataFrame({"part": ["clips"], "count": [1.5]}))
    with pytest.raises(ResultTableError, match=r"world/secret\.csv is no declared result table"):
        read_columns("world/secret.csv", tmp_path / "secret.csv")


def test_the_inventory_of_real_data_has_further_columns_all_or_none():
    kitchen = pd.DataFrame({"part": ["clips"], "count": [3]})
    check_columns("world/counts.csv", kitchen)
    check_columns("world/counts.csv", kitchen.assign(found=[True], sha256=[""]))
    with pytest.raises(ResultTableError, match="lacks the columns sha256"):
        check_columns("world/counts.csv", kitchen.assign(found=[True]))
