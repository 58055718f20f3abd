"""A fitted model on raw rows: any number of rows, any subset, either precision."""

import copy
import gc
import pickle
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from skvae import AutoencoderTransformer, VAETransformer
from skvae._data.columns import Columns
from skvae._model.design import Design
from skvae._model.fitted import Fitted
from skvae._model.inference import apply, averaged, decode
from skvae._model.member import Member
from skvae._training.rows import Settings
from skvae.likelihoods import Gaussian

KINDS = ["autoencoder", "vae"]
DTYPES = {"float64": torch.float64, "float32": torch.float32}
each_kind = pytest.mark.parametrize("kind", KINDS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def make_fitted(kind, rng, n_networks=1):
    """Random weights behind three columns of different units, one of them constant in training."""
    columns = Columns(
        np.array([5.0, -3.0, 7.0]), np.array([2.0, 0.5, 1.0]), np.array([False, False, True]), tuple("abc")
    )
    settings = Settings(batch_size=8, n_epochs=2, learning_rate=0.01)
    design = Design(kind, 2, (6,), "tanh", Gaussian(3), n_networks, settings)
    module = design.module(3)
    module.flat.data.copy_(torch.as_tensor(0.4 * rng.standard_normal(len(module.flat))))
    members = tuple(Member(module.network(index)) for index in range(n_networks))
    return Fitted(columns, design, module, list(range(n_networks)), 5, "residual", members, torch.zeros(2, 3))


def raw_rows(rng, n_samples, dtype=torch.float64):
    return torch.as_tensor(rng.standard_normal((n_samples, 3)) * [2.0, 0.5, 1.0] + [5.0, -3.0, 7.0]).to(dtype)


def scaled(values):
    """By hand: centred and scaled, and nothing of the constant column."""
    return torch.stack([(values[:, 0] - 5.0) / 2.0, (values[:, 1] + 3.0) / 0.5, torch.zeros(len(values))], dim=1)


def encode(x, module):
    return module.encode(x)


@each_kind
@each_dtype
@pytest.mark.parametrize("n_samples", [1, 2, 16, 17, 1024, 1025, 2500])
def test_apply_equals_one_pass(kind, dtype, n_samples, rng):
    """Chunks and their padding leave no trace."""
    fitted, values = make_fitted(kind, rng), raw_rows(rng, n_samples, dtype)
    before = values.clone()
    actual = apply(fitted, values, encode, 2)
    with torch.no_grad():
        expected = fitted.module.converted(torch.float64).encode(scaled(values.double()))
    assert actual.shape == (n_samples, 2)
    assert actual.dtype == dtype
    # Measured with the seeds 0 to 2: 1.6e-7 in float32.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)
    assert torch.equal(values, before)


@pytest.mark.parametrize("n_samples", [17, 2500])
def test_rows_of_a_chunk_are_not_overwritten_by_the_next(n_samples, rng):
    """The chunks of a call lie in one place, one after the other."""
    values = raw_rows(rng, n_samples)
    found = apply(make_fitted("autoencoder", rng), values, lambda x, module: x, 3)
    torch.testing.assert_close(found, scaled(values), rtol=1e-12, atol=1e-12)


@each_kind
@each_dtype
def test_subsets_and_order_change_nothing(kind, dtype, rng):
    """To the rounding of the precision at most, whatever chunk a row falls into."""
    fitted, values = make_fitted(kind, rng), raw_rows(rng, 1500, dtype)
    whole = apply(fitted, values, encode, 2)
    for rows in (rng.permutation(1500), np.arange(7), np.array([1499]), np.arange(0, 1500, 3)):
        torch.testing.assert_close(apply(fitted, values[rows], encode, 2), whole[rows], rtol=1e-6, atol=1e-6)
    assert torch.equal(apply(fitted, values, encode, 2), whole)


@each_kind
def test_function_sees_equal_chunks(kind, rng):
    """All of one size, the last one filled up with its last row; scaled rows, in inference mode."""
    fitted, values, seen = make_fitted(kind, rng), raw_rows(rng, 1100), []

    def record(x, module):
        assert torch.is_inference_mode_enabled()
        assert module.flat.dtype == torch.float64
        seen.append(x.clone())
        return x[:, 0]

    result = apply(fitted, values, record)
    assert len({len(x) for x in seen}) == 1
    together = torch.cat(seen)
    torch.testing.assert_close(together[:1100], scaled(values))
    assert torch.equal(together[1100:], together[1099].expand(len(together) - 1100, -1))
    assert torch.equal(result, together[:1100, 0])


@each_dtype
@pytest.mark.parametrize("n_networks", [1, 3])
def test_averaged_is_the_mean_over_networks(dtype, n_networks, rng):
    """Each by its own member and module, summed in float64."""
    fitted, values, pairs = make_fitted("autoencoder", rng, n_networks), raw_rows(rng, 20, dtype), []

    def score(member, module, x):
        pairs.append((member, module))
        return (x - module.reconstruct(x)).square().sum(1)

    actual = averaged(fitted, values, score)
    with torch.no_grad():
        x = scaled(values.double())
        modules = [fitted.module.converted(torch.float64).network(index) for index in range(n_networks)]
        expected = torch.stack([(x - module.reconstruct(x)).square().sum(1) for module in modules]).mean(0)
    assert actual.dtype == torch.float64
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)
    for (member, module), own in zip(pairs, fitted.members, strict=True):
        assert torch.equal(module.flat.float(), own.module.flat)
        assert member.densities.keys() == own.densities.keys()
        assert module.flat.dtype == dtype


@each_kind
@each_dtype
@pytest.mark.parametrize("n_samples", [1, 1025])
def test_decode_speaks_the_users_units(kind, dtype, n_samples, rng):
    """The constant column comes back as it was."""
    fitted, z = make_fitted(kind, rng), torch.as_tensor(rng.standard_normal((n_samples, 2))).to(dtype)
    actual = decode(fitted, z)
    with torch.no_grad():
        x = fitted.module.converted(torch.float64).decode(z.double())
    expected = torch.stack([2.0 * x[:, 0] + 5.0, 0.5 * x[:, 1] - 3.0, torch.full((n_samples,), 7.0)], dim=1)
    assert actual.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5}[dtype]
    torch.testing.assert_close(actual.double(), expected, rtol=tolerance, atol=tolerance)


@each_kind
def test_inference_leaves_the_model_and_the_threads_alone(kind, rng):
    fitted, threads = make_fitted(kind, rng), torch.get_num_threads()
    before = fitted.module.flat.detach().clone()

    def fail(x, module):
        raise RuntimeError("broken")

    apply(fitted, raw_rows(rng, 40), encode, 2)
    decode(fitted, torch.zeros(3, 2))
    with pytest.raises(RuntimeError, match=r"\Abroken\Z"):
        apply(fitted, raw_rows(rng, 40), fail, 2)
    assert torch.equal(fitted.module.flat.detach(), before)
    assert torch.get_num_threads() == threads
    assert not torch.is_inference_mode_enabled()


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("given", [{}, {"score_method": "log_likelihood"}, {"score_method": "elbo"}], ids=str)
def test_a_row_has_its_score_whatever_stands_beside_it(given, gaps, precision, seed):
    """In a table whose rows lie in one piece or in columns, in a part of it, alone; to the bit."""
    rng = np.random.default_rng(seed)
    X = (rng.normal(size=(80, 4)) @ rng.normal(size=(4, 11))).astype(precision)
    if gaps:
        X[1::2, 3] = np.nan  # every other row is complete
    model = VAETransformer(2, hidden_layer_sizes=(8,), max_iter=2, tol=1e3, random_state=0, **given).fit(X)
    for method in (model.score_samples, model.log_likelihood, model.effective_sample_size):
        whole = method(X)
        np.testing.assert_array_equal(method(np.asfortranarray(X)), whole)
        for rows in (slice(0, 48), slice(0, 80, 2), slice(7, 8), [3]):
            np.testing.assert_array_equal(method(X[rows]), whole[rows])


# --- What is kept between calls -------------------------------------------------------------------------------------

ESTIMATORS = {"autoencoder": AutoencoderTransformer, "vae": VAETransformer}
each_estimator = pytest.mark.parametrize("estimator", ESTIMATORS.values(), ids=ESTIMATORS)
# What is kept is the same code for both.
slow_for_vae = pytest.mark.parametrize(
    "estimator", [AutoencoderTransformer, pytest.param(VAETransformer, marks=pytest.mark.slow)], ids=ESTIMATORS
)


@pytest.fixture
def X(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(200, 3)) @ rng.normal(size=(3, 7)) + rng.normal(size=(200, 7))


def small(estimator, X):
    return estimator(2, hidden_layer_sizes=(8,), max_iter=2, tol=1e3, random_state=0).fit(X)


@slow_for_vae
def test_few_rows_get_the_same_bits_at_every_call_in_every_thread(estimator, X):
    """Sixteen threads at once, each with numbers of rows and precisions that change, on one model."""
    model = small(estimator, X)
    tables = {dtype: X[:80].astype(dtype) for dtype in ("float64", "float32")}
    scores = {dtype: model.score_samples(table) for dtype, table in tables.items()}  # more rows than are kept for
    codes = {dtype: model.transform(table) for dtype, table in tables.items()}

    def work(first):
        for step in range(12):
            dtype = ("float64", "float32")[step % 2]
            rows = slice(first, first + 1 + (7 * step + first) % 40)
            np.testing.assert_array_equal(model.score_samples(tables[dtype][rows]), scores[dtype][rows])
            np.testing.assert_array_equal(model.transform(tables[dtype][rows]), codes[dtype][rows])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(work, range(32)))


@slow_for_vae
def test_kept_passes_are_in_no_copy_and_go_with_the_model(estimator, X):
    model = small(estimator, X)
    before = pickle.dumps(model)
    score = model.score_samples(X[:1])
    assert pickle.dumps(model) == before
    for other in (copy.deepcopy(model), pickle.loads(before)):
        np.testing.assert_array_equal(other.score_samples(X[:1]), score)
    member = weakref.ref(model._fitted.members[0])
    del model, other
    gc.collect()
    assert member() is None


@each_estimator
def test_kept_passes_follow_the_model(estimator, X):
    """Training on, another threshold, parameters that are changed in place."""
    model = small(estimator, X)
    fresh = pickle.loads(pickle.dumps(model))
    model.score_samples(X[:1])
    model.partial_fit(X)
    np.testing.assert_array_equal(model.score_samples(X[:1]), fresh.partial_fit(X).score_samples(X[:1]))
    before = model.transform(X[:1])
    model.calibrate(X[100:])
    np.testing.assert_array_equal(model.transform(X[:1]), before)
    with torch.no_grad():
        model._fitted.members[0].module.flat.mul_(2.0)
    assert (model.transform(X[:1]) != before).any()
