"""Patterns of missing values: counted, thinned, drawn, saved."""

import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io
import torch

from skvae import VAETransformer
from skvae._data.patterns import Patterns

NAN = float("nan")
ROWS = torch.tensor([[1.0, NAN, NAN], [1.0, 2.0, 3.0], [1.0, NAN, 3.0], [1.0, NAN, NAN], [1.0, 2.0, 3.0]])


def test_patterns_are_counted_by_hand():
    patterns = Patterns.of(ROWS, (1, 2))
    np.testing.assert_array_equal(patterns.missing, [[0, 0, 0], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_allclose(patterns.share, [0.4, 0.2, 0.4])
    weighted = Patterns.of(ROWS, (1, 2), torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0]))
    np.testing.assert_allclose(weighted.share, [0.2, 0.3, 0.5])


def test_patterns_do_not_depend_on_the_order_of_the_rows(rng):
    x = torch.from_numpy(np.where(rng.random((500, 70)) < 0.1, np.nan, 1.0))
    first, second = (Patterns.of(rows, tuple(range(70))) for rows in (x, x.flip(0)))
    np.testing.assert_array_equal(first.missing, second.missing)
    assert len(first.share) == len({tuple(row) for row in x.isnan().tolist()})


def test_a_bounded_number_of_patterns_keeps_the_shares_of_the_columns(rng):
    """5,000 rows of 30 columns that miss a tenth to a half: nearly as many patterns, of which 1,000 stay."""
    share = np.linspace(0.1, 0.5, 30)
    x = torch.from_numpy(np.where(rng.random((5000, 30)) < share, np.nan, 1.0))
    patterns = Patterns.of(x, tuple(range(30)))
    assert len(patterns.share) == 1000
    assert patterns.share.sum() == pytest.approx(1.0)
    # 0.08: five standard errors of a share of a half among 1,000.
    np.testing.assert_allclose(patterns.share @ patterns.missing, x.isnan().double().mean(dim=0), atol=0.08)


def test_draws_have_the_shares_and_leave_given_values(generator):
    patterns = Patterns.of(ROWS, (1, 2))
    known = np.array([[False, False, False], [False, False, True], [False, True, True]])
    drawn = patterns.sample(known, 10_000, generator)
    # 0.025: five standard errors.
    np.testing.assert_allclose(drawn.mean(axis=1), [[0, 0.6, 0.4], [0, 1 / 3, 0], [0, 0, 0]], atol=0.025)
    always = Patterns(np.array([[False, True]]), np.ones(1))
    assert not always.sample(np.array([[False, True]]), 5, generator).any()  # nothing was so in training


# --- Tables ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def table(rng):
    """Of 400 rows a quarter misses two values together, another quarter one."""
    pattern = rng.permutation(np.repeat([0, 0, 1, 2], 100))
    frame = pd.DataFrame(
        {
            "count": pd.array(rng.integers(0, 9, 400), dtype="Int64"),
            "flag": np.array(rng.random(400) < 0.5, dtype=object),
            "whole": rng.integers(0, 9, 400).astype(float),
            "town": rng.choice(["a", "b"], 400),
            "full": rng.integers(0, 9, 400),
        }
    )
    frame.loc[pattern == 1, ["count", "town"]] = None
    frame.loc[pattern == 2, ["flag", "whole"]] = None
    return frame


@pytest.fixture
def small():
    return VAETransformer(
        2, hidden_layer_sizes=(8,), latent_density=1, calibration_fraction=0.0, max_iter=1, tol=1e9, random_state=0
    )


def test_samples_miss_values_as_the_training_rows_do(small, table):
    model = small.fit(table)
    whole, holed = (model.sample(4000, random_state=0, missing=missing) for missing in (None, "as_trained"))
    assert not whole.isna().any(axis=None)
    assert (holed.dtypes == table.dtypes).all()
    shares = holed.isna().value_counts(normalize=True)
    # 0.04: five standard errors of a share of a half.
    assert shares[(False, False, False, False, False)] == pytest.approx(0.5, abs=0.04)
    assert shares[(True, False, False, True, False)] == pytest.approx(0.25, abs=0.04)
    assert shares[(False, True, True, False, False)] == pytest.approx(0.25, abs=0.04)
    assert len(shares) == 3
    pd.testing.assert_frame_equal(holed.dropna(), whole.loc[holed.notna().all(axis=1)].astype(holed.dtypes))
    given = model.sample(50, random_state=0, given=pd.DataFrame({"town": ["a"]}), missing="as_trained")
    assert (given["town"] == "a").all()
    assert given["count"].notna().all()
    assert given["flag"].isna().any()


def test_complete_tables_have_no_pattern(small, rng):
    model = small.fit(rng.normal(size=(50, 3)))
    assert model._fitted.patterns is None
    np.testing.assert_array_equal(
        model.sample(9, random_state=0, missing="as_trained"), model.sample(9, random_state=0)
    )


def test_patterns_are_saved(small, rng, tmp_path):
    X = rng.normal(size=(200, 3))
    X[:50, 0] = NAN
    model = small.fit(X, sample_weight=np.r_[np.full(50, 2.0), np.ones(150)])
    np.testing.assert_allclose(model._fitted.patterns.share, [0.6, 0.4])
    skops.io.dump(model, tmp_path / "model.skops")
    again = skops.io.load(tmp_path / "model.skops", trusted=["skvae.vae.VAETransformer"])
    for loaded in (again, pickle.loads(pickle.dumps(model))):
        np.testing.assert_array_equal(
            loaded.sample(50, random_state=0, missing="as_trained"),
            model.sample(50, random_state=0, missing="as_trained"),
        )


def test_other_values_of_missing_are_told(small, rng):
    with pytest.raises(ValueError) as caught:  # noqa: PT011, the whole message follows
        small.fit(rng.normal(size=(20, 2))).sample(2, missing=True)
    assert str(caught.value) == "The 'missing' parameter must be 'as_trained' or None. Got True instead."
