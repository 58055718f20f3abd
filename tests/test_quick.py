"""A few rows of a frame, read cell by cell, are what the careful way makes of them; what is not plain is left to it."""

import numpy as np
import pandas as pd
import polars as pl
import pytest

from skvae import AutoencoderTransformer
from skvae._tables.finding import find_table
from skvae._tables.quick import quick_rows


def mixed(n_samples=40):
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "size": rng.normal(size=n_samples),
            "count": rng.integers(0, 9, size=n_samples),
            "word": rng.choice(["a", "b", "c"], size=n_samples),
            "flag": rng.random(n_samples) < 0.5,
            "kind": pd.Categorical(rng.choice(["x", "y"], size=n_samples)),
            "nullable": pd.array(rng.integers(0, 9, size=n_samples), dtype="Int64"),
        }
    )


def with_gaps():
    return mixed().astype({"flag": "boolean"}).mask(np.random.default_rng(1).random((40, 6)) < 0.3)


def priced():
    """Prices as text, two of them blank, and numbers with a text among them."""
    cells = np.random.default_rng(2).normal(50.0, 9.0, (40, 2)).round(2)
    prices = [" " if row in (7, 20) else f"${price:,.2f}" for row, price in enumerate(cells[:, 0])]
    rates = ["7.5" if row == 8 else float(rate) for row, rate in enumerate(cells[:, 1])]
    return mixed().assign(price=prices, rate=rates)


def table_of(X):
    return find_table(X, categorical_features="from_dtype", likelihood="auto")


TABLES = {
    "mixed": mixed,
    "gaps": with_gaps,
    "numbers": lambda: mixed()[["size", "count"]],
    "polars": lambda: pl.from_pandas(mixed()),
    "polars with gaps": lambda: pl.from_pandas(with_gaps()),
    "polars numbers": lambda: pl.from_pandas(mixed()[["size"]]),
    "numbers as text": priced,
    "polars numbers as text": lambda: pl.from_pandas(priced().drop(columns="rate")),
    "only numbers as text": lambda: priced()[["size", "price"]],
}


@pytest.mark.parametrize("n_samples", [1, 3])
@pytest.mark.parametrize("kind", TABLES)
def test_quick_rows_are_those_of_the_table(kind, n_samples):
    X = TABLES[kind]()
    table = table_of(X)
    for first in (0, 7, 20):
        rows = X[first : first + n_samples]
        found = quick_rows(table, rows)
        assert found.dtype == np.float64
        encoded = table.encode(rows)
        names = list(encoded.columns)
        np.testing.assert_array_equal(found, np.column_stack([np.asarray(encoded[n], dtype=float) for n in names]))


def test_numbers_may_come_for_numbers_as_text_and_other_texts_are_left_to_the_table():
    X = priced()
    table = table_of(X)
    rows = quick_rows(table, X[:3].assign(price=[1.5, 2.5, np.nan]))
    np.testing.assert_array_equal(rows[:, -2], [1.5, 2.5, np.nan])
    assert quick_rows(table, X[:1].assign(price="dear")) is None


OTHERS = {
    "array": lambda X: X.to_numpy(),
    "many rows": lambda X: pd.concat([X] * 2),
    "no row": lambda X: X[:0],
    "other order": lambda X: X[X.columns[::-1]],
    "other names": lambda X: X.rename(columns={"size": "sizes"}),
    "a column more": lambda X: X.assign(more=1.0),
    "new level": lambda X: X[:1].assign(word="d"),
    "number for a word": lambda X: X[:1].assign(word=pd.Series([1.0], dtype=object)),
    "text for a number": lambda X: X[:1].assign(size="1.5"),
    "single precision": lambda X: X[:1].astype({"size": "float32"}),
    "sparse": lambda X: X[:1].assign(size=pd.arrays.SparseArray([0.0])),
    "list": lambda X: X[:1].assign(word=pd.Series([["a"]], dtype=object)),
    "time": lambda X: X[:1].assign(word=pd.Timestamp("2026-01-01")),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_is_not_plain_is_left_to_the_careful_way(kind):
    X = mixed()
    assert quick_rows(table_of(X), OTHERS[kind](X)) is None


def test_rows_of_one_frame_score_alike_however_they_are_read():
    """All rows together are too many to be read quickly."""
    X = pd.concat([with_gaps()] * 2, ignore_index=True)
    model = AutoencoderTransformer(2, hidden_layer_sizes=(4,), max_iter=1, tol=1e3, random_state=0).fit(X)
    whole = model.score_samples(X)
    np.testing.assert_array_equal(np.concatenate([model.score_samples(X[i : i + 1]) for i in range(9)]), whole[:9])
    np.testing.assert_array_equal(model.score_samples(X[3:60]), whole[3:60])
