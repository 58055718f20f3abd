"""Sizes by hand: layers, batches, epochs, rows held out."""

import math
import re
from types import SimpleNamespace

import numpy as np
import pytest

from skvae._model.sizes import calibration_size, hidden_sizes, schedule


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("auto", (64, 32)),
        (5, (5,)),
        (np.int64(5), (5,)),
        ((), ()),
        ([7, 3], (7, 3)),
        (np.array([7, 3]), (7, 3)),
    ],
    ids=repr,
)
def test_hidden_sizes(given, expected):
    sizes = hidden_sizes(given, (64, 32))
    assert sizes == expected
    assert all(type(width) is int for width in sizes)


@pytest.mark.parametrize(
    ("given", "shown"),
    [((5, 0), "(5, 0)"), (-1, "-1"), ([2.5], "[2.5]"), (("5",), "('5',)"), ([None], "[None]")],
    ids=repr,
)
def test_hidden_sizes_message(given, shown):
    message = f"The 'hidden_layer_sizes' parameter must hold positive ints, one for each layer. Got {shown} instead."
    with pytest.raises(ValueError, match=rf"\A{re.escape(message)}\Z"):
        hidden_sizes(given, ())


@pytest.mark.parametrize(
    ("n_samples", "batch_size", "max_iter", "expected"),
    [
        (1, "auto", "auto", (1, 600)),
        (50, "auto", "auto", (32, 300)),  # two batches an epoch
        (2048, "auto", "auto", (64, 19)),  # 32 batches: 600 / 32 = 18.75
        (4096, "auto", "auto", (128, 19)),
        (10**6, "auto", "auto", (128, 3)),  # the largest batch; three epochs at least
        (50, 10, "auto", (10, 120)),
        (50, 100, "auto", (50, 600)),
        (50, "auto", 7, (32, 7)),
        (50, 25, 7, (25, 7)),
    ],
)
def test_schedule_by_hand(n_samples, batch_size, max_iter, expected):
    """A budget of 600 steps; batches are powers of two next to a 32nd of the rows, from 32 to 128."""
    estimator = SimpleNamespace(batch_size=batch_size, max_iter=max_iter)
    assert schedule(estimator, n_samples, n_steps=600, max_batch=128) == expected


@pytest.mark.parametrize(
    ("n_samples", "rate", "fraction", "expected"),
    [
        (1000, 0.05, 0.2, 199),  # ten scores of 200 places, not ten of 201
        (1000, 0.05, 0.1, 99),
        (569, 0.05, 0.1, 59),  # 57, and then three scores of 60 places
        (1000, 0.05, 0.0, 0),
        (200, 0.05, 0.1, 39),  # the second-lowest score, where four fifths are left
        (100, 0.05, 0.1, 19),
        (60, 0.05, 0.1, 19),  # 19 rows are what 5 % needs; they leave two thirds
        (30, 0.05, 0.1, 10),  # no more than a third
        (30, 0.05, 0.5, 15),  # unless asked for
        (2, 0.05, 0.5, 1),
        (1, 0.05, 0.5, 0),  # the last row trains
        (100_000, 0.05, 0.2, 999),
        (100_000, 0.0005, 0.2, 1999),  # more than 1,000 only for a rate that needs them
    ],
)
def test_calibration_size_by_hand(n_samples, rate, fraction, expected):
    assert calibration_size(n_samples, rate, fraction) == expected


@pytest.mark.parametrize("rate", [0.001, 0.01, 0.05, 0.1, 1 / 3, 0.5])
def test_calibration_size_is_what_the_rate_needs(rate):
    """With n held rows the smallest rate is 1 / (n + 1)."""
    n_held = calibration_size(10_000, rate, 1e-9)
    n_below = 1 if rate == 0.001 else 2  # 1,999 rows are more than are set aside without need
    assert n_below / (n_held + 1) <= rate * (1 + 1e-12)
    assert rate <= n_below / n_held


@pytest.mark.parametrize("rate", [0.01, 0.03, 0.05, 0.1, 1 / 3, 0.5])
@pytest.mark.parametrize("n_samples", [100, 200, 569, 2000, 12_345])
def test_calibration_size_wastes_no_rate(n_samples, rate):
    """floor(rate (n + 1)) / (n + 1), the rate attained, falls short of the rate by less than one row's worth."""
    n_held = calibration_size(n_samples, rate, 0.1)
    if n_held >= 1 / rate - 1:
        attained = math.floor(rate * (n_held + 1) + 1e-9) / (n_held + 1)
        assert rate * (1 - 1 / (n_held + 1)) - 1e-12 <= attained <= rate + 1e-12
