"""Columns of more levels than are told apart: the rare ones count as one and come back in their shares."""

import pickle
import re
import warnings

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._tables.finding import find_table
from skvae._tables.kinds import Categorical
from skvae._tables.levels import Rare, split_levels
from skvae._tables.table import Table

# 254 levels of 4 rows each, and rare ones of 3, 2 and 1 rows.
COMMON = [f"town {index:03d}" for index in range(254)]
TOWNS = [*COMMON * 4, *["Rome"] * 3, *["Oslo"] * 2, "Bonn"]
WARNING = (
    "Of a categorical column at most 255 levels are told apart, the 254 most frequent ones and the others as one: "
    "column {}. Group levels yourself, or drop the column, to have it otherwise."
)


def exactly(message):
    return f"^{re.escape(message)}$"


def learned(X, weight=None):
    with pytest.warns(UserWarning, match=exactly(WARNING.format("'town' (257 levels)"))):
        return find_table(X, categorical_features="from_dtype", likelihood="auto", weight=weight)


@pytest.mark.parametrize("frame", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_rare_levels_share_a_code_and_come_back(frame):
    X = frame({"town": TOWNS})
    table = learned(X)
    assert table.n_levels == (255,)
    assert table.columns == (
        Categorical(tuple(COMMON), Rare(("Rome", "Oslo", "Bonn"), (3 / 6, 2 / 6, 1 / 6), complete=True)),
    )
    for one in (table, Table.from_state(pickle.loads(pickle.dumps(table.state())))):
        codes = np.asarray(one.encode(X), dtype=float)
        assert codes[:, 0].tolist() == [*range(254)] * 4 + [254] * 6
        assert list(one.decode(codes, X)["town"]) == TOWNS  # each row's own
        assert list(one.decode(codes[-2:])["town"]) == ["Rome", "Rome"]  # the likeliest of them


def test_rare_levels_are_drawn_in_their_shares():
    """Within five standard errors of the binomial shares 1/2, 1/3 and 1/6."""
    table = learned(pd.DataFrame({"town": TOWNS}))
    codes = table.spread(torch.full((6000, 1), 254.0), torch.Generator().manual_seed(0))
    drawn = table.decode(codes.numpy())["town"].value_counts()
    for town, share in {"Rome": 1 / 2, "Oslo": 1 / 3, "Bonn": 1 / 6}.items():
        assert abs(drawn[town] - 6000 * share) < 5 * np.sqrt(6000 * share * (1 - share))
    assert drawn.sum() == 6000
    assert (table.spread(torch.zeros(3, 1), torch.Generator()) == 0).all()


def test_weights_say_which_levels_are_rare():
    """As repeated rows do; a row without any weight brings no level."""
    weight = np.ones(len(TOWNS))
    weight[-1], weight[:254:254] = 9, 0
    heavy = learned(pd.DataFrame({"town": TOWNS}), weight)
    repeated = learned(pd.DataFrame({"town": np.repeat(TOWNS, weight.astype(int))}))
    assert heavy == repeated
    assert heavy.columns[0].rare.levels == ("Rome", "town 000", "Oslo")


def test_unknown_levels_are_new_unless_not_all_rare_ones_are_kept():
    mass = dict.fromkeys(range(254), 1.0) | dict.fromkeys(range(1000, 30000), 0.5)
    levels, rare = split_levels(mass)
    assert (levels, len(rare.levels), rare.complete) == (tuple(range(254)), 10_000, False)
    assert sum(rare.shares) == pytest.approx(1.0)
    texts = split_levels({f"{number:01000d}": 1.0 for number in range(5000)})[1]
    assert len(texts.levels) == 2**20 // 1000  # a bound on characters, too
    X = pd.DataFrame({"town": TOWNS})
    table, later = learned(X), pd.DataFrame({"town": ["Bonn", "Kyiv"]})
    assert np.asarray(table.encode(later, quiet=True, scored=True)).tolist() == [[254.0], [255.0]]
    some = Table((Categorical(table.columns[0].levels, Rare(("Rome",), (1.0,), complete=False)),), table.form)
    assert np.asarray(some.encode(later)).tolist() == [[254.0], [254.0]]
    assert list(some.decode(np.full((2, 1), 254.0), later)["town"]) == ["Bonn", "Kyiv"]


def test_states_that_do_not_fit_together_are_refused():
    state = learned(pd.DataFrame({"town": TOWNS})).state()
    with pytest.raises(ValueError, match=exactly("3 rare levels have 2 shares, not a positive one each")):
        Table.from_state(state | {"rare": [[0, state["rare"][0][1] | {"shares": [0.5, 0.5]}]]})
    with pytest.raises(ValueError, match=exactly("a column without levels has rare ones")):
        Table.from_state(state | {"levels": [None]})


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The loss still improved")
@pytest.mark.parametrize("make", [AutoencoderTransformer, VAETransformer])
def test_estimators_give_rare_levels_back(make):
    """Integers beyond 2**53 exactly; one warning for all columns; draws in the shares of the rows."""
    rng = np.random.default_rng(0)
    number = np.minimum(rng.zipf(1.3, 3000), 10**6)
    X = pd.DataFrame({"x": rng.normal(size=3000), "big": pd.Categorical(2**60 + number), "town": number.astype(str)})
    expected = WARNING.format("'big' (603 levels), 'town' (603 levels)")
    with pytest.warns(UserWarning, match=exactly(expected)) as told:
        model = make(random_state=0, max_iter=10, tol=1e3).fit(X)
    assert len(told) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.isfinite(model.score_samples(X)).all()
        again = model.reconstruct(X)
    common = set(X["town"].value_counts().index[:254])
    assert again.dtypes.equals(X.dtypes)
    if make is VAETransformer:
        drawn = model.sample(3000, random_state=0)
        assert set(drawn["big"]) <= set(X["big"])
        rare, of_rows = ~drawn["town"].isin(common), ~X["town"].isin(common)
        assert abs(rare.mean() - of_rows.mean()) < 0.05
        assert drawn["town"][rare].nunique() > 100
        given = X[of_rows][["town"]].iloc[:2]
        assert model.sample(2, random_state=0, given=given)["town"].tolist() == given["town"].repeat(2).tolist()
        holed = X.assign(town=X["town"].where(X.index >= 200))
        assert model.impute(holed, n_draws=1)[0]["town"][:200].nunique() > model.impute(holed)["town"][:200].nunique()
