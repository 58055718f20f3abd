"""Maps of columns to normal scores: they integrate to one, agree with scipy.stats, and give back what they took."""

from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from scipy import integrate, stats

from skvae._data.marginals import Marginals

N_ROWS = 3000


def zeros_and(law, share, rng, size):
    return np.where(rng.random(size) < share, 0.0, law(size))


# What tables hold: name -> draws.
COLUMNS = {
    "normal": lambda rng, size: rng.normal(10.0, 3.0, size),
    "exponential": lambda rng, size: rng.exponential(2.0, size),
    "uniform": lambda rng, size: rng.uniform(-1.0, 1.0, size),
    "student_t": lambda rng, size: rng.standard_t(3, size),
    "two_modes": lambda rng, size: np.where(rng.random(size) < 0.5, rng.normal(-3, 0.3, size), rng.normal(3, 1, size)),
    "indicator": lambda rng, size: (rng.random(size) < 0.2).astype(float),
    "two_values": lambda rng, size: np.where(rng.random(size) < 0.4, -7.5, 1e6),
    "counts": lambda rng, size: rng.poisson(3.0, size).astype(float),
    "ages": lambda rng, size: np.clip(rng.normal(45, 12, size), 17, 90).round(),
    "tenths": lambda rng, size: rng.normal(60.0, 2.0, size).round(1),
    "some_values": lambda rng, size: rng.choice(np.exp(np.arange(40) / 3.0), size),
    "zeros_and_a_continuum": lambda rng, size: zeros_and(lambda n: rng.lognormal(7.0, 1.0, n), 0.8, rng, size),
    "zeros_and_whole_numbers": lambda rng, size: zeros_and(lambda n: rng.lognormal(9, 1, n).round(), 0.9, rng, size),
    "prices": lambda rng, size: rng.lognormal(8.0, 1.0, size).round(),
    "a_spike_within": lambda rng, size: np.where(rng.random(size) < 0.3, 0.5, rng.normal(0.0, 2.0, size)),
    "amounts": lambda rng, size: rng.lognormal(4.0, 1.0, size),
    "cents": lambda rng, size: rng.lognormal(2.0, 1.0, size).round(2),
    "losses": lambda rng, size: -rng.lognormal(4.0, 1.0, size),
    "a_few_zeros": lambda rng, size: zeros_and(lambda n: rng.exponential(2.0, n), 0.005, rng, size),
    "spikes_at_both_bounds": lambda rng, size: np.clip(rng.normal(0.5, 0.5, size), 0.0, 1.0),
}
CONTINUA = {
    "normal": stats.norm(10.0, 3.0),
    "exponential": stats.expon(scale=2.0),
    "uniform": stats.uniform(-1.0, 2.0),
    "student_t": stats.t(3),
}


def draws(name, seed, size=N_ROWS):
    return COLUMNS[name](np.random.default_rng(seed), size)


def fitted(*columns, weight=None):
    X = np.stack(columns, axis=1)
    return Marginals.fit(lambda column: X[:, column], range(X.shape[1]), weight)


@lru_cache
def of(name, seed):
    """The map of a column, learned once."""
    return fitted(draws(name, seed))


def scores(marginals, values):
    return marginals.scores(torch.as_tensor(np.asarray(values)).reshape(-1, 1)).squeeze(1).numpy()


def values(marginals, u):
    return marginals.values(torch.as_tensor(np.asarray(u)).reshape(-1, 1)).squeeze(1).numpy()


def log_slopes(marginals, y):
    return marginals.log_slope_at(marginals.scores(torch.as_tensor(y).reshape(-1, 1))).squeeze(1).numpy()


def interval(marginals, value):
    low, high, has_mass = marginals.intervals(torch.tensor([[scores(marginals, [value])[0]]]))
    return low.item(), high.item(), has_mass.item()


@pytest.mark.parametrize(
    "law",
    [
        pytest.param(stats.norm(), id="standard", marks=pytest.mark.slow),
        pytest.param(stats.norm(0.4, 0.7), id="shifted"),
        pytest.param(stats.t(5), id="t", marks=pytest.mark.slow),
    ],
)
@pytest.mark.parametrize("name", COLUMNS)
def test_a_density_of_the_scores_becomes_one_of_the_column(name, law, seed):
    """Masses, and the density between and beyond the knots by quadrature, sum to one."""
    marginals = of(name, seed)
    knots = np.unique(marginals.y[0])
    total = 0.0
    low, high, has_mass = (
        part.squeeze(1).numpy() for part in marginals.intervals(torch.from_numpy(scores(marginals, knots)).unsqueeze(1))
    )
    total += (law.cdf(high) - law.cdf(low))[has_mass].sum()
    nodes, weights = np.polynomial.legendre.leggauss(24)
    half = 0.5 * np.diff(knots)[:, None]
    y = (knots[:-1, None] + half * (nodes + 1.0)).ravel()
    density = law.pdf(scores(marginals, y)) * np.exp(log_slopes(marginals, y))
    total += (half * weights).ravel() @ density
    for end, slope, sign in ((knots[0], marginals.tails[0, 0], -1.0), (knots[-1], marginals.tails[0, 1], 1.0)):

        def density(distance, end=end, slope=slope, sign=sign):
            y = np.array([end + sign * distance / slope])
            return law.pdf(scores(marginals, y)[0]) * np.exp(log_slopes(marginals, y)[0]) / slope

        total += integrate.quad(density, 1e-9, np.inf)[0]
    assert total == pytest.approx(1.0, abs=2e-5)  # measured: at most 4e-6, of the density's corners at the knots


@pytest.mark.parametrize("name", CONTINUA)
def test_the_log_density_is_near_the_true_one_on_fresh_rows(name, seed):
    fresh = draws(name, seed + 1)
    marginals = of(name, seed)
    density = log_slopes(marginals, fresh) + stats.norm.logpdf(scores(marginals, fresh))
    truth = CONTINUA[name].logpdf(fresh).mean()
    assert truth - 0.1 < density.mean() < truth + 0.05


@pytest.mark.parametrize("name", COLUMNS)
def test_randomised_scores_of_fresh_rows_are_normal(name, seed):
    """Rosenblatt's transform: uniform after the normal distribution function, whatever the column holds."""
    marginals, fresh = of(name, seed), draws(name, seed + 1)
    u = marginals.scores(torch.from_numpy(fresh).unsqueeze(1))
    drawn = marginals.randomised(u, torch.Generator().manual_seed(seed)).squeeze(1).numpy()
    # Two samples of 3,000 rows differ by more than 0.053 once in 3,000 times; the map itself smooths.
    assert stats.kstest(drawn, "norm").statistic < 0.06


@pytest.mark.parametrize("name", COLUMNS)
def test_values_come_back(name, seed):
    X, marginals = draws(name, seed), of(name, seed)
    back = values(marginals, scores(marginals, X))
    if name in ("normal", "exponential", "uniform", "student_t", "two_modes", "amounts", "losses", "a_few_zeros"):
        assert np.abs(back - X).max() < 1e-9 * X.std()
    elif name == "zeros_and_a_continuum":
        assert (back[X == 0.0] == 0.0).all()
        np.testing.assert_allclose(back, X, rtol=1e-9)
    else:
        np.testing.assert_allclose(back, X, rtol=0.0, atol=1e-12)
        assert name in ("a_spike_within", "spikes_at_both_bounds") or (back == X).all()


@pytest.mark.parametrize("name", ["indicator", "two_values", "counts", "ages", "tenths", "some_values"])
def test_draws_of_discrete_columns_are_values_of_the_column(name, seed):
    X = draws(name, seed)
    drawn = values(of(name, seed), np.random.default_rng(seed).normal(size=20_000))
    assert np.isin(drawn, X).mean() > 0.995  # a value of the grid may be new
    assert X.min() <= drawn.min() <= drawn.max() <= X.max()


def test_draws_have_the_shares_of_the_column(seed):
    X = draws("zeros_and_whole_numbers", seed)
    drawn = values(fitted(X), np.random.default_rng(seed).normal(size=20_000))
    assert (drawn == 0.0).mean() == pytest.approx((X == 0.0).mean(), abs=0.02)
    assert (drawn == drawn.round()).all()
    assert (drawn < 0.0).mean() < 1e-3


@pytest.mark.parametrize("unit", [1.0, 1e-6])
@pytest.mark.parametrize("name", ["exponential", "amounts", "cents", "losses", "prices", "a_few_zeros"])
def test_draws_cross_no_zero_that_values_are_crowded_before(name, unit, seed):
    """Also where scores have wider tails than the normal distribution."""
    X = draws(name, seed) * unit if name not in ("cents", "prices") else draws(name, seed)
    drawn = values(fitted(X), 3.0 * np.random.default_rng(seed).normal(size=20_000))
    assert np.abs(drawn).min() == 0.0 if (X == 0.0).any() else (drawn != 0.0).all()
    assert set(np.sign(drawn)) <= set(np.sign(X))
    assert (drawn[np.abs(drawn) < np.abs(X).min()] != 0.0).any() or (X == 0.0).any()
    if name in ("cents", "prices"):
        np.testing.assert_allclose(drawn * 100.0, (drawn * 100.0).round(), rtol=1e-9)


@pytest.mark.parametrize("name", ["exponential", "amounts", "cents", "losses"])
def test_a_value_beyond_such_a_zero_has_a_low_density_and_a_finite_one(name, seed):
    X, marginals = draws(name, seed), of(name, seed)
    beyond = -np.sign(X[0]) * X.std() * np.array([0.0, 1e-6, 0.1, 1.0, 100.0])
    density = log_slopes(marginals, beyond) + stats.norm.logpdf(scores(marginals, beyond))
    assert (np.diff(density) <= 0.0).all()
    assert density[0] + np.log(X.std()) < -7.0
    assert np.isfinite(density).all()


@pytest.mark.parametrize(
    "law", [stats.norm(9.0, 1.0), stats.uniform(5.0, 1.0), stats.expon(-1.0), stats.t(3)], ids=lambda law: law.dist.name
)
def test_values_that_do_not_crowd_before_zero_have_tails(law, seed):
    X = law.rvs(N_ROWS, random_state=seed)
    assert values(fitted(X), [-10.0])[0] < X.min() - 0.5 * X.std()


@pytest.mark.parametrize("n_rows", [60, 2000])
@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("digits", [3, 12])
@pytest.mark.parametrize("law", [stats.norm(3.0, 1.0), stats.gamma(4), stats.uniform(0.3, 1.0)])
def test_draws_keep_the_sign_that_all_values_have_and_densities_stay(law, digits, sign, n_rows, seed):
    X = law.rvs(n_rows, random_state=seed)
    X = sign * X[X > 0.2].round(digits)
    marginals, u = fitted(X), 3.0 * np.random.default_rng(seed).normal(size=20_000)
    free = replace(marginals, limits=np.array([[-np.inf, np.inf]]))
    drawn, unlimited = values(marginals, u), values(free, u)
    assert set(np.sign(drawn)) == {sign}
    assert set(np.sign(unlimited)) >= {-sign, sign}
    assert (drawn[np.abs(drawn) > np.abs(X).min()] == unlimited[sign * unlimited > np.abs(X).min()]).all()
    for of_values in (scores, log_slopes):
        y = np.linspace(-5.0, 5.0, 101)
        assert (of_values(marginals, y) == of_values(free, y)).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_scores_rise_with_the_values(name, seed):
    X = draws(name, seed)
    grid = np.unique(np.concatenate([X, np.linspace(X.min() - np.ptp(X), X.max() + np.ptp(X), 5001)]))
    u = scores(of(name, seed), grid)
    assert np.isfinite(u).all()
    # Two values that are nearer to each other than single precision tells apart may have one score.
    assert (np.diff(u) >= -1e-12).all()
    assert (np.diff(u[:: max(1, len(u) // 200)]) > 0.0).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_tails_go_on_in_straight_lines(name, seed):
    X = draws(name, seed)
    marginals, spread = of(name, seed), X.std()
    far = max(X.max(), 0.0) + spread * np.array([10.0, 20.0, 1e6])
    u = scores(marginals, far)
    assert u[1] - u[0] == pytest.approx(10.0 * spread * marginals.tails[0, 1], rel=1e-6)
    assert 4.0 < u[2] < 2e6
    np.testing.assert_allclose(log_slopes(marginals, far), np.log(marginals.tails[0, 1]))


def test_the_mass_of_an_indicator_is_its_share():
    """By hand: of 1 + 1,000 parts one is kept for other values."""
    marginals = fitted(np.repeat([0.0, 1.0], [800, 200]))
    low, high, has_mass = interval(marginals, 1.0)
    assert has_mass
    assert stats.norm.cdf(high) - stats.norm.cdf(low) == pytest.approx(0.2, abs=1e-3)
    assert scores(marginals, [1.0])[0] == pytest.approx(stats.norm.isf(0.1), abs=5e-3)
    assert log_slopes(marginals, np.array([1.0]))[0] == 0.0


def test_a_width_turns_a_density_into_a_mass():
    marginals = fitted(np.repeat([0.0, 1.0], [800, 200]))
    u = marginals.scores(torch.tensor([[1.0]]))
    mass = stats.norm.pdf(u.item()) * np.exp(marginals.log_width_at(u).item())
    assert mass == pytest.approx(0.2, abs=1e-3)


def test_width_of_a_spike_changes_with_the_unit_as_the_continuum_beside_it_does(rng):
    X = np.where(rng.random(400) < 0.4, 0.0, rng.lognormal(size=400))
    widths = []
    for unit in (1.0, 1000.0):
        marginals = fitted(unit * X)
        widths.append(marginals.log_width_at(marginals.scores(torch.from_numpy(unit * X).unsqueeze(1))))
    torch.testing.assert_close(widths[1], widths[0] - np.log(1000.0), rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("unit", [2.0**-480, 2.0**480])
@pytest.mark.parametrize("name", ["student_t", "amounts", "zeros_and_a_continuum", "two_modes"])
def test_units_near_the_ends_of_the_range_of_floats_change_densities_alone(name, unit, seed):
    X, marginals = draws(name, seed, 400), fitted(draws(name, seed, 400))
    other, u = fitted(unit * X), scores(marginals, X)
    np.testing.assert_allclose(scores(other, unit * X), u, atol=1e-9)
    np.testing.assert_allclose(values(other, u) / unit, X, rtol=1e-9)
    slopes = log_slopes(marginals, X)
    expected = np.where(slopes == 0.0, 0.0, slopes - np.log(unit))  # 0 at values with a mass
    np.testing.assert_allclose(log_slopes(other, unit * X), expected, atol=1e-9)


def test_values_off_the_grid_are_scored_low_and_given_back_on_it():
    X = draws("counts", 0)
    marginals = fitted(X)
    y = np.array([3.6, -1.0, 40.0])
    density = log_slopes(marginals, y) + stats.norm.logpdf(scores(marginals, y))
    assert np.isfinite(density).all()
    assert density.max() < np.log(1e-3)
    assert (values(marginals, scores(marginals, y)) == [4.0, X.min(), X.max()]).all()


def test_a_value_without_rows_keeps_a_mass_on_a_grid():
    """Ages 0 to 60 of 300 people: one that nobody has is not impossible."""
    X = np.random.default_rng(0).integers(0, 61, 300).astype(float)
    low, high, has_mass = interval(fitted(X[X != 30.0]), 30.0)
    assert has_mass
    assert 1e-4 < stats.norm.cdf(high) - stats.norm.cdf(low) < 0.03


def test_integer_weights_equal_repeated_rows():
    rng = np.random.default_rng(0)
    X, weight = rng.choice([0.0, 1.0, 2.0], 200), rng.integers(1, 5, 200).astype(float)
    weighted, repeated = fitted(X, weight=weight), fitted(np.repeat(X, weight.astype(int)))
    np.testing.assert_allclose(weighted.u, repeated.u, atol=1e-12)


def test_weights_move_a_continuum():
    X = np.random.default_rng(0).exponential(size=2000)
    weight = np.where(X > 1.0, 3.0, 1.0)
    marginals = fitted(X, weight=weight / weight.mean())
    above = 3.0 * (X > 1.0).mean() / (1.0 + 2.0 * (X > 1.0).mean())
    assert stats.norm.sf(scores(marginals, [1.0])[0]) == pytest.approx(above, abs=0.02)


def test_missing_values_stay_missing_and_teach_nothing():
    X = draws("zeros_and_a_continuum", 0)
    with_gaps = np.concatenate([X, np.full(500, np.nan)])
    marginals = fitted(with_gaps)
    assert np.isnan(scores(marginals, with_gaps)[-500:]).all()
    assert np.isnan(values(marginals, [np.nan])).all()
    assert (marginals.u == fitted(X).u).all()


@pytest.mark.parametrize("name", COLUMNS)
def test_single_precision_meets_the_same_values(name, seed):
    X, marginals = draws(name, seed), of(name, seed)
    single = scores(marginals, X.astype(np.float32))
    assert np.abs(single - scores(marginals, X)).max() < 1e-2
    masses = (marginals.intervals(torch.from_numpy(u).unsqueeze(1))[2] for u in (single, scores(marginals, X)))
    assert torch.equal(*masses)
    tenths = draws("tenths", seed).astype(np.float32)
    of_single = fitted(tenths.astype(np.float64))
    assert (values(of_single, scores(of_single, tenths)).astype(np.float32) == tenths).all()


def test_columns_of_one_value_or_none_are_left_out():
    assert fitted(np.ones(10), np.full(10, np.nan)) is None
    marginals = fitted(np.ones(10), np.arange(10.0), np.full(10, np.nan))
    assert marginals.columns == (1,)


@pytest.mark.parametrize("X", [[0.0, 1.0], [1.5, 1.5, 2.25], [1e-300, 2e-300], [1.0, 1.0 + 1e-12], [-1e15, 1e15, 3.0]])
def test_few_values_are_mapped(X):
    marginals = fitted(np.array(X))
    u = scores(marginals, X)
    assert np.isfinite(u).all()
    assert (np.diff(u[np.argsort(X, kind="stable")]) >= 0.0).all()
    np.testing.assert_allclose(values(marginals, u), X, rtol=1e-9)


def test_what_is_stored_does_not_grow_with_the_rows():
    rng = np.random.default_rng(0)
    for size in (1000, 50_000):
        X = [rng.lognormal(size=size), rng.integers(0, 10**6, size) / 1.0, rng.integers(0, 400, size) / 1.0]
        assert fitted(*X).n_knots.max() <= 1024


def test_columns_side_by_side_are_mapped_as_alone(seed):
    columns = [draws(name, seed) for name in COLUMNS]
    together, X = fitted(*columns), np.stack(columns, axis=1)
    u = together.scores(torch.from_numpy(X)).numpy()
    for place, (name, column) in enumerate(zip(COLUMNS, columns, strict=True)):
        assert (u[:, place] == scores(of(name, seed), column)).all()


def test_a_file_of_before_there_were_limits_has_bounds_or_none():
    state = fitted(draws("amounts", 0)).state()
    assert (state.pop("limits")[0] > 0.0).all()
    assert values(Marginals.from_state(state), [-20.0])[0] < 0.0
    ends = {"bounded": np.array([[True, False]])}
    assert values(Marginals.from_state(state | ends), [-20.0])[0] > 0.0


def test_state_comes_back_to_the_bit():
    marginals = fitted(draws("tenths", 0), draws("zeros_and_a_continuum", 0))
    again = Marginals.from_state(marginals.state())
    X = torch.from_numpy(np.stack([draws("tenths", 1), draws("zeros_and_a_continuum", 1)], axis=1))
    assert (marginals.scores(X) == again.scores(X)).all()
    assert (marginals.log_width == again.log_width).all()
