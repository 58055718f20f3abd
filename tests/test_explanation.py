"""The long table of an explanation: the values that had to change, and nothing else."""

import pickle
import sys

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from skvae import AutoencoderTransformer
from skvae._estimators.explanation import Explanation

LINES = [
    (7, "kind", "red", "blue", 0.75),
    (7, "age", 90, 31, 0.25),
    (9, "age", 5, 40, 1.0),
]
NAMES = ["row", "column", "value", "expected", "share"]


@pytest.fixture
def explanation():
    X = pd.DataFrame({"age": [90, 30, 5], "kind": ["red", "red", "red"], "x": [0.5, 0.5, 0.5]}, index=[7, 8, 9])
    expected = pd.DataFrame({"age": [31, 30, 40], "kind": ["blue", "red", "red"], "x": [0.25, 0.5, 0.5]}, index=X.index)
    shares = np.array([[0.25, 0.75, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]])
    return Explanation(pd.DataFrame(-shares, X.index, X.columns), expected, shares=shares, X=X)


def test_lists_what_had_to_change_the_worst_first(explanation):
    table = explanation.to_frame()
    pd.testing.assert_frame_equal(
        table, pd.DataFrame(LINES, columns=NAMES).astype({"value": object, "expected": object})
    )
    assert [type(value) for value in table["value"]] == [str, int, int]


def test_top_bounds_the_lines_of_a_row(explanation):
    assert explanation.to_frame(top=1).to_numpy().tolist() == [list(LINES[0]), list(LINES[2])]
    assert len(explanation.to_frame(top=None)) == 3


def test_is_a_pair_and_pickles(explanation):
    contributions, expected = explanation
    assert contributions is explanation.contributions
    assert expected is explanation.expected
    again = pickle.loads(pickle.dumps(explanation))
    pd.testing.assert_frame_equal(again.to_frame(), explanation.to_frame())


@pytest.mark.parametrize("convert", [pl.from_pandas, pa.Table.from_pandas, pa.RecordBatch.from_pandas])
def test_tables_of_other_libraries_and_arrays_number_their_rows(explanation, convert):
    expected, X = (convert(table.reset_index(drop=True)) for table in (explanation.expected, explanation.X))
    other = Explanation(None, expected, shares=explanation.shares, X=X)
    assert other.to_frame()["row"].tolist() == [0, 0, 2]
    assert other.to_frame().iloc[:, 1:].to_numpy().tolist() == [list(line[1:]) for line in LINES]
    array = Explanation(None, np.zeros((3, 3)), shares=explanation.shares, X=np.ones((3, 3)))
    assert array.to_frame()["column"].tolist() == ["x1", "x0", "x0"]
    assert array.to_frame().dtypes.astype(str).tolist()[2:] == ["float64"] * 3


@pytest.mark.parametrize("top", [0, -1, 2.5, True])
def test_refuses_another_top(explanation, top):
    with pytest.raises(ValueError, match="top") as caught:
        explanation.to_frame(top=top)
    assert str(caught.value) == f"The 'top' parameter must be a positive int or None. Got {top!r} instead."


def test_says_how_to_install_pandas(explanation, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError) as caught:
        explanation.to_frame()
    assert str(caught.value) == "to_frame needs pandas. Install it with: pip install pandas"


# --- Of fitted models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(seed):
    """A model of four columns that nearly agree, and one that never varied."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(400, 1)) * np.ones(4) + 0.1 * rng.normal(size=(400, 4))
    frame = pd.DataFrame(X, columns=["a", "b", "c", "d"]).assign(whole=7)
    return AutoencoderTransformer(max_iter=30, tol=10.0, random_state=0).fit(frame), frame


def test_shares_are_those_of_the_repaired_values(fitted):
    model, frame = fitted
    rows = frame[:6].copy()
    rows.loc[2, "c"] += 8.0
    rows.loc[3, "whole"] = 12
    rows.loc[4, ["a", "b"]] += [6.0, -6.0]
    explained = model.explain(rows)
    flagged = model.predict(rows) == -1
    np.testing.assert_allclose(explained.shares.sum(axis=1), flagged.astype(float), atol=1e-12)
    table = explained.to_frame()
    assert table[table["row"] == 2]["column"].tolist()[0] == "c"
    assert table[table["row"] == 3].iloc[0].tolist() == [3, "whole", 12, 7, 1.0]
    assert set(table[table["row"] == 4]["column"]) >= {"a", "b"}
    line = table[table["row"] == 2].iloc[0]
    assert (line["value"], line["expected"]) == (rows.loc[2, "c"], explained.expected.loc[2, "c"])
    assert isinstance(table[table["row"] == 3].iloc[0]["expected"], int)


def test_a_normal_row_has_no_line(fitted):
    model, frame = fitted
    normal = frame[model.predict(frame) == 1][:5]
    table = model.explain(normal).to_frame()
    assert table.shape == (0, 5)
    assert list(table.columns) == NAMES


def test_tensors_are_listed_as_arrays_are(fitted):
    model, frame = fitted
    X = frame.to_numpy()[:6] + np.eye(6, 5) * 8.0
    plain = AutoencoderTransformer(max_iter=3, tol=10.0, random_state=0).fit(frame.to_numpy())
    explained = plain.explain(X)
    as_tensors = Explanation(None, torch.from_numpy(explained.expected), shares=explained.shares, X=X)
    pd.testing.assert_frame_equal(as_tensors.to_frame(), explained.to_frame())
