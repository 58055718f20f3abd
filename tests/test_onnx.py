"""Exported graphs: onnxruntime gives what the estimator gives; what a graph cannot express is refused by name."""

import sys
from contextlib import nullcontext
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import skl2onnx
import torch
from sklearn.base import clone
from sklearn.datasets import load_diabetes, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from test_modules import CONFIGS

from skvae import AutoencoderTransformer, VAETransformer
from skvae._densities.modes import ModalDensity
from skvae._support.graph import Graph
from skvae.likelihoods import LIKELIHOODS, ColumnGroups
from skvae.onnx import register_converters, to_onnx

# Differences are in units of the largest number of an output: a number near zero has no digits of its own. Measured
# over the cases below and three seeds: codes and reconstructions 2.9e-7 in float32 and 3.7e-16 in float64, scores
# 5.1e-15 in float64. Densities of small residuals amplify what float32 rounds in the networks, in the estimator as in
# the graph: scores differ by up to 3.7e-6, of which SLACK times the distance of the estimator's own scores in float32
# and in float64 (up to 1.0e-5) is granted beside the tolerance.
TOLERANCES = {"float32": 1e-6, "float64": 1e-12}
SLACK = 4.0
AUTOENCODER = AutoencoderTransformer(3, hidden_layer_sizes=(16, 16), max_iter=15, tol=1e3, random_state=0)
VAE = VAETransformer(2, hidden_layer_sizes=(16, 16), max_iter=15, tol=1e3, n_draws=5, random_state=0)
DENSITY = clone(VAE).set_params(score_method="log_likelihood")
CASES = {
    "autoencoder": clone(AUTOENCODER),
    "residual": clone(AUTOENCODER).set_params(score_method="residual"),
    "reconstruction": clone(AUTOENCODER).set_params(score_method="reconstruction"),
    "neighbor": clone(AUTOENCODER).set_params(score_method="neighbor"),
    "neighbor_of_dirty_rows": clone(AUTOENCODER).set_params(score_method="neighbor", contamination=0.1),
    "contamination": clone(AUTOENCODER).set_params(contamination=0.1),
    "unscaled": clone(AUTOENCODER).set_params(standardize=False),
    "linear": clone(AUTOENCODER).set_params(hidden_layer_sizes=()),
    "deep": clone(AUTOENCODER).set_params(hidden_layer_sizes=(9, 8, 7)),
    "networks": clone(AUTOENCODER).set_params(n_networks=2),
    "vae": clone(VAE),
    "log_likelihood": clone(DENSITY),
    "elbo": clone(VAE).set_params(score_method="elbo"),
    "vae_learned_prior": clone(DENSITY).set_params(latent_density="learned"),
    "vae_gaussian": clone(DENSITY).set_params(likelihood="gaussian"),
    "vae_constant_scale": clone(DENSITY).set_params(likelihood="gaussian", scale="constant"),
    "vae_student_t": clone(DENSITY).set_params(likelihood="student_t", latent_density="normal"),
    "student_t": clone(AUTOENCODER).set_params(likelihood="student_t"),
    "vae_networks": clone(DENSITY).set_params(n_networks=2),
    **{
        activation: clone(AUTOENCODER).set_params(activation=activation)
        for activation in ("identity", "logistic", "tanh", "relu", "elu", "gelu")
    },
}
# Of binary columns.
BINARY = {
    "bernoulli": clone(AUTOENCODER).set_params(likelihood="bernoulli"),
    "vae_bernoulli": clone(DENSITY).set_params(likelihood="bernoulli"),
    "poisson": clone(AUTOENCODER).set_params(likelihood="poisson"),
    "vae_negative_binomial": clone(VAE).set_params(likelihood="negative_binomial"),
}
INCOMPLETE = {name: CASES[name] for name in (
    "autoencoder", "reconstruction", "neighbor", "contamination", "unscaled", "vae", "elbo", "log_likelihood",
    "vae_student_t", "vae_networks",
)}  # fmt: skip


SMALL_AUTOENCODER = clone(AUTOENCODER).set_params(hidden_layer_sizes=(8,), max_iter=3)
# The cases above have mixtures as p(z), which take five times as long to choose as the rest of so short a fit.
SMALL_VAE = clone(VAE).set_params(hidden_layer_sizes=(8,), max_iter=3, latent_density=1)
RESIDUAL_SCORES = ("joint", "residual", "neighbor", "reconstruction")
BOUNDS = ("log_likelihood", "elbo")
MIXED = {0: "bernoulli", 3: "gaussian"}
LEVELS = {0: "categorical", 2: "categorical"}
LEVELS_AND_COUNTS = {0: "categorical", 1: "poisson", 3: "negative_binomial"}
# Estimator, likelihood and its parameters, and the scores that a graph serves for it.
FAMILIES = {
    "autoencoder auto": (SMALL_AUTOENCODER, {}, RESIDUAL_SCORES),
    "autoencoder gaussian": (SMALL_AUTOENCODER, {"likelihood": "gaussian"}, RESIDUAL_SCORES),
    "autoencoder student_t": (SMALL_AUTOENCODER, {"likelihood": "student_t"}, RESIDUAL_SCORES),
    "autoencoder bernoulli": (SMALL_AUTOENCODER, {"likelihood": "bernoulli"}, RESIDUAL_SCORES),
    "autoencoder poisson": (SMALL_AUTOENCODER, {"likelihood": "poisson"}, RESIDUAL_SCORES),
    "autoencoder negative_binomial": (SMALL_AUTOENCODER, {"likelihood": "negative_binomial"}, RESIDUAL_SCORES),
    "autoencoder groups": (SMALL_AUTOENCODER, {"likelihood": MIXED}, RESIDUAL_SCORES),
    "autoencoder categorical": (SMALL_AUTOENCODER, {"likelihood": "categorical"}, RESIDUAL_SCORES),
    "autoencoder levels and counts": (SMALL_AUTOENCODER, {"likelihood": LEVELS_AND_COUNTS}, RESIDUAL_SCORES),
    "vae auto": (SMALL_VAE, {"latent_density": "auto"}, RESIDUAL_SCORES + BOUNDS),
    **{
        f"vae {name} {scale} {floor}": (
            SMALL_VAE,
            {"likelihood": name, "scale": scale, "min_scale": floor},
            BOUNDS if floor else RESIDUAL_SCORES + BOUNDS,
        )
        for name in ("gaussian", "student_t")
        for scale in ("dependent", "constant", "shared")
        for floor in (0.0, 0.5)
    },
    "vae bernoulli": (SMALL_VAE, {"likelihood": "bernoulli"}, RESIDUAL_SCORES + BOUNDS),
    "vae poisson": (SMALL_VAE, {"likelihood": "poisson"}, RESIDUAL_SCORES),
    "vae negative_binomial": (SMALL_VAE, {"likelihood": "negative_binomial"}, RESIDUAL_SCORES),
    "vae groups": (SMALL_VAE, {"likelihood": MIXED}, RESIDUAL_SCORES + BOUNDS),
    "vae categorical": (SMALL_VAE, {"likelihood": "categorical"}, RESIDUAL_SCORES + BOUNDS),
    "vae levels": (SMALL_VAE, {"likelihood": LEVELS}, RESIDUAL_SCORES + BOUNDS),
    "vae groups shared": (SMALL_VAE, {"likelihood": MIXED, "scale": "shared"}, BOUNDS),
}
# Of a VAE's scores by residuals, which read its likelihood as an autoencoder's do, the first; in float32 and with
# missing cells the first of each, and in both none. The rest is slow.
SERVED = [
    pytest.param(
        case,
        method,
        missing,
        dtype,
        marks=[]
        if (method == methods[0] and (dtype == "float64" or not missing))
        or (dtype == "float64" and not missing and (method in BOUNDS or case.startswith("autoencoder")))
        else [pytest.mark.slow],
    )
    for case, (_, _, methods) in FAMILIES.items()
    for method in methods
    for missing in (False, True)
    if not (missing and method == "residual")  # refused below
    for dtype in TOLERANCES
]


def make_rows(rng, n_samples, n_columns=6):
    """A bent surface in columns of different size, the third constant: networks learn what no linear map has."""
    z = rng.normal(size=(n_samples, 2))
    bent = np.concatenate([z, np.tanh(2 * z), np.square(z) - 1], axis=1)
    mixing = np.random.default_rng(7).normal(size=(6, n_columns))
    X = (bent @ mixing + 0.1 * rng.normal(size=(n_samples, n_columns))) * np.arange(1, n_columns + 1) + 5.0
    X[:, 2] = 4.0
    return X


def with_holes(rng, X):
    """A fifth of the cells missing, and one row without any."""
    X = np.where(rng.random(X.shape) < 0.2, np.nan, X)
    X[3] = np.nan
    return X


def rows_of(rng, likelihood, n_samples, *, missing):
    """Numbers, or what a likelihood takes: zeros and ones and counts."""
    X = make_rows(rng, n_samples)
    if isinstance(likelihood, dict):
        X[:, 0] = X[:, 0] > 5
        counts = [column for column, name in likelihood.items() if name in ("poisson", "negative_binomial")]
        X[:, counts] = np.maximum(X[:, counts].round(), 0.0)
    elif likelihood == "categorical":
        X = np.clip((X / 3).round(), 0.0, 3.0)
    elif likelihood == "bernoulli":
        X = (X > 5) * 1.0
    elif likelihood in ("poisson", "negative_binomial"):
        X = np.maximum(X.round(), 0.0)
    return with_holes(rng, X) if missing else X


def assert_all_is_read(model):
    """A runtime warns whoever loads a graph of a constant that nothing reads."""
    read = {name for node in model.graph.node for name in node.input}
    assert read >= {constant.name for constant in model.graph.initializer}


def run(model, X):
    assert_all_is_read(model)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"X": X}), strict=True))


def difference(got, expected):
    """In units of the largest number of the output."""
    assert got.shape == expected.shape
    return np.abs(got - expected).max() / np.abs(expected).max()


def assert_close(got, expected, tolerance):
    assert difference(got, expected) <= tolerance


def assert_agrees(estimator, X, dtype, model=None):
    """The four outputs of a graph against the four verbs."""
    rows, tolerance = X.astype(dtype), TOLERANCES[dtype]
    got = run(to_onnx(estimator, dtype=dtype) if model is None else model, rows)
    assert list(got) == ["scores", "labels", "codes", "reconstruction"]
    scores, last = estimator.score_samples(rows), estimator
    own = difference(scores, estimator.score_samples(rows.astype("float64")))
    if hasattr(estimator, "steps"):
        last, rows = estimator[-1], estimator[:-1].transform(rows)
    assert_close(got["scores"], scores, tolerance + SLACK * own)
    assert_close(got["codes"], last.transform(rows), tolerance)
    assert_close(got["reconstruction"], last.reconstruct(rows), tolerance)
    clear = np.abs(scores - last.offset_) > 2 * (tolerance + SLACK * own) * np.abs(scores).max()
    np.testing.assert_array_equal(got["labels"][clear], last.predict(rows)[clear])
    assert [got[name].dtype for name in got] == ["float64", "int64", dtype, dtype]


# --- Agreement ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(seed):
    """A model of `CASES` and rows for it, made once."""

    @cache
    def make(case):
        rng = np.random.default_rng(seed)
        estimator = clone(CASES[case]).fit(make_rows(rng, 300))
        return estimator, np.concatenate([make_rows(rng, 70), 10 * make_rows(rng, 5)])

    return make


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", CASES)
def test_runtime_agrees_with_the_estimator(case, dtype, fitted):
    if case == "gelu" and dtype == "float64":
        return  # refused below
    estimator, X = fitted(case)
    if case not in ("linear", "identity"):
        assert estimator.module_.parts()[1].weights[-1].any()  # trained, not where it started
    assert_agrees(estimator, X, dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("case", BINARY)
def test_runtime_agrees_on_binary_columns(case, dtype, seed):
    rng = np.random.default_rng(seed)
    estimator = clone(BINARY[case]).fit((make_rows(rng, 200) > 5) * 1.0)
    assert_agrees(estimator, (make_rows(rng, 70) > 5) * 1.0, dtype)


@pytest.mark.parametrize("dtype", [pytest.param("float32", marks=pytest.mark.slow), "float64"])
@pytest.mark.parametrize("case", INCOMPLETE)
def test_runtime_agrees_on_missing_cells(case, dtype, seed):
    """Rows with and without missing cells, and one without any value."""
    rng = np.random.default_rng(seed)
    estimator = clone(INCOMPLETE[case]).fit(with_holes(rng, make_rows(rng, 200)))
    assert_agrees(estimator, np.concatenate([with_holes(rng, make_rows(rng, 60)), make_rows(rng, 20)]), dtype)


@pytest.fixture(scope="module")
def served(seed):
    """A fitted model of `SERVED` and rows for it, made once."""

    @cache
    def make(case, method, missing):
        rng = np.random.default_rng(seed)
        estimator, parameters, _ = FAMILIES[case]
        likelihood = parameters.get("likelihood")
        estimator = clone(estimator).set_params(**parameters, score_method=method)
        estimator.fit(rows_of(rng, likelihood, 120, missing=missing))
        return estimator, rows_of(rng, likelihood, 40, missing=missing)

    return make


@pytest.mark.parametrize(("case", "method", "missing", "dtype"), SERVED)
def test_runtime_agrees_for_every_likelihood_and_score(case, method, missing, dtype, served):
    assert_agrees(*served(case, method, missing), dtype)


@pytest.mark.parametrize("offset", [10.0, 1e3, 1e5])
@pytest.mark.parametrize("method", [*RESIDUAL_SCORES, "log_likelihood"])
def test_runtime_agrees_on_columns_far_from_zero_that_are_not_scaled(method, offset, seed):
    """Squares of such rows cancel where nothing is subtracted first; measured 2.7e-14 and, in float32, 2.9e-5."""
    rng, kind = np.random.default_rng(seed), SMALL_VAE if method == "log_likelihood" else SMALL_AUTOENCODER
    estimator = clone(kind).set_params(standardize=False, score_method=method, tol=1e12)
    estimator.fit(make_rows(rng, 200) + offset)
    for dtype in TOLERANCES:
        assert_agrees(estimator, make_rows(rng, 50) + offset, dtype)


def test_shared_scale_of_one_column(seed):
    """Its shapes are those of a scale for each cell, so that only the numbers tell."""
    X = make_rows(np.random.default_rng(seed), 100)[:, :1]
    estimator = clone(SMALL_VAE).set_params(likelihood="gaussian", scale="shared").fit(X)
    assert_agrees(estimator, X, "float64")


# --- Likelihoods by themselves --------------------------------------------------------------------------------------


def graph_outputs(likelihood, terms, dtype, **inputs):
    """What onnxruntime makes of the nodes of a likelihood alone."""
    graph, free = Graph(onnx, dtype), inputs.pop("free")
    calls = {
        "mean": lambda: likelihood.graph_mean(graph, "outputs"),
        "log_prob": lambda: likelihood.graph_log_prob(graph, "x", "outputs", free),
        "expected": lambda: likelihood.graph_expected_log_prob(graph, "outputs", free),
    }
    names = {term: graph.node("Identity", calls[term](), name=term) for term in terms}
    shapes = {name: (dtype, list(value.shape)) for name, value in inputs.items()}
    model = graph.model(shapes, {name: (dtype, [None] * inputs["outputs"].ndim) for name in names})
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(list(names), {name: value.numpy().astype(dtype) for name, value in inputs.items()})


def terms_of(likelihood):
    """What has an ONNX form: of groups what each of them has."""
    families = likelihood.likelihoods if isinstance(likelihood, ColumnGroups) else [likelihood]
    return [term for term in ("mean", "log_prob") if all(term in family.graph_terms for family in families)]


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", [name for name, likelihood in CONFIGS.items() if terms_of(likelihood)])
def test_graph_of_a_likelihood_gives_what_the_likelihood_gives(name, dtype, seed):
    """Outputs of several draws, some beyond the ranges that they are clipped to.

    Measured over 30 seeds: 2.6e-15 and 2.8e-7, and in float32 2.0e-6 for "bernoulli", whose two terms cancel.
    """
    generator, likelihood = torch.Generator().manual_seed(seed), CONFIGS[name]
    x = torch.randn(7, 3, generator=generator, dtype=torch.float64)
    x = (x > 0).double() if name.startswith(("bernoulli", "groups")) else x
    x = torch.arange(21.0, dtype=torch.float64).view(7, 3) % torch.tensor([2, 4, 3]) if name == "categorical" else x
    outputs = 4 * torch.randn(2, 7, likelihood.n_outputs, generator=generator, dtype=torch.float64)
    free = torch.tensor(likelihood.initial_free(), dtype=torch.float64)
    free += 0.5 * torch.randn(free.shape, generator=generator, dtype=torch.float64)
    x, outputs = (part.to(getattr(torch, dtype)).double() for part in (x, outputs))
    given, expected = {"outputs": outputs, "free": free}, {"mean": likelihood.mean(outputs, free)}
    if "log_prob" in terms_of(likelihood):
        given["x"] = x
        expected["log_prob"] = likelihood.log_prob(x, outputs, free)
        expected["expected"] = likelihood.expected_log_prob(outputs, free)
    for got, wanted in zip(graph_outputs(likelihood, expected, dtype, **given), expected.values(), strict=True):
        assert_close(got, wanted.numpy(), 5 * TOLERANCES[dtype])


@pytest.mark.parametrize(
    ("name", "term", "family"),
    [
        ("poisson", "log_prob", "poisson"),
        ("negative_binomial", "log_prob", "negative_binomial"),
        ("groups", "log_prob", "poisson"),
    ],
)
def test_a_likelihood_without_an_onnx_form_says_so(name, term, family):
    likelihood, graph = CONFIGS[name], Graph(onnx, "float64")
    arguments = ("x", "outputs", torch.zeros(likelihood.n_free)) if term == "log_prob" else ("outputs",)
    with pytest.raises(NotImplementedError) as caught:
        getattr(likelihood, f"graph_{term}")(graph, *arguments)
    assert str(caught.value) == (
        f"graph_{term} needs a family with an ONNX form, but {family!r} has none of it. Ask graph_terms first, or "
        "implement it."
    )


# --- Real tables, rows of any number and size -----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("load", [load_wine, load_diabetes])
@pytest.mark.parametrize("cls", [AutoencoderTransformer, VAETransformer])
def test_defaults_agree_on_real_tables_without_slack(cls, load):
    """Columns in their own units, fresh rows; against float64, as float32 of the estimator's own rounds as much."""
    train, test = train_test_split(load().data, random_state=0)
    estimator = cls(random_state=0).fit(train)
    for dtype, tolerance in TOLERANCES.items():
        rows = test.astype(dtype)
        got = run(to_onnx(estimator, dtype=dtype), rows)
        for name, verb in (("scores", "score_samples"), ("codes", "transform"), ("reconstruction", "reconstruct")):
            assert_close(got[name], getattr(estimator, verb)(rows.astype(float)), tolerance)
        np.testing.assert_array_equal(got["labels"], estimator.predict(rows))


@pytest.mark.parametrize("estimator", [AUTOENCODER, VAE], ids=["autoencoder", "vae"])
def test_rows_beyond_the_arithmetic_get_the_lowest_score(estimator, seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator, far = clone(estimator).fit(X), X[:3].astype(np.float32)
    far[:, 1] = [1e25, -1e37, 3e38]
    got = run(to_onnx(estimator), far)
    np.testing.assert_array_equal(got["scores"], estimator.score_samples(far))
    np.testing.assert_array_equal(got["labels"], [-1, -1, -1])


def test_wide_table(seed):
    """Beyond some columns the joint density keeps the leading axes only."""
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 60, 300)
    estimator = clone(AUTOENCODER).fit(X)
    assert_close(run(to_onnx(estimator, dtype="float64"), X)["scores"], estimator.score_samples(X), 1e-12)


@pytest.mark.parametrize("method", ["joint", "residual", "neighbor", "dirty"])
def test_few_rows_of_many_columns(method, seed):
    """Their Gaussians are kept by axes and variances."""
    X, fresh = np.split(make_rows(np.random.default_rng(seed), 80, 230), [60])
    parameters = {"contamination": 0.1} if method == "dirty" else {"score_method": method}
    estimator = clone(AUTOENCODER).set_params(**parameters).fit(X)
    assert_agrees(estimator, fresh, "float64")


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_unclean_rows_that_have_modes(dtype, seed):
    rng = np.random.default_rng(seed)
    X = 3.0 * rng.normal(size=(6, 4))[np.arange(200) % 6] + 0.3 * rng.normal(size=(200, 4))
    estimator = clone(AUTOENCODER).set_params(contamination=0.1).fit(X)
    assert isinstance(estimator._fitted.members[0].densities["joint"], ModalDensity)
    assert_agrees(estimator, X, dtype)


@pytest.mark.parametrize("gaps", [False, True])
@pytest.mark.parametrize("method", ["joint", "robust", "local"])
def test_rows_that_hold_no_noise(method, gaps, seed):
    """Windows of a sine, and some that stand still."""
    t = np.arange(400)
    signal = np.sin(t * 2.0 * np.pi / 50.0) + 0.1 * np.random.default_rng(seed).normal(size=len(t))
    windows = np.lib.stride_tricks.sliding_window_view(signal, 16)[::2].copy()
    rows = np.concatenate([np.zeros((3, 16)), windows[:20]])
    if gaps:
        windows[np.random.default_rng(seed).random(windows.shape) < 0.05] = np.nan
        rows[1, ::3] = rows[2, 1:] = rows[5, 1::2] = np.nan
    estimator = clone(AUTOENCODER).set_params(score_method=method).fit(windows)
    assert len(estimator._fitted.members[0].densities[method].lengths)
    assert_agrees(estimator, rows, "float64")


def test_any_number_of_rows(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(VAE).fit(X)
    model = to_onnx(estimator, dtype="float64")
    for n_samples in (1, 7, 60):
        assert_close(run(model, X[:n_samples])["scores"], estimator.score_samples(X[:n_samples]), 1e-12)


def test_recalibration_moves_the_labels(seed):
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 100)
    estimator = clone(AUTOENCODER).fit(X).calibrate(10 * make_rows(rng, 40))
    np.testing.assert_array_equal(run(to_onnx(estimator, dtype="float64"), X)["labels"], estimator.predict(X))


def test_graph_is_valid_and_says_who_made_it(seed):
    model = to_onnx(clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60)))
    onnx.checker.check_model(model, full_check=True)
    assert model.producer_name == "skvae"
    assert [
        dimension.dim_param or dimension.dim_value for dimension in model.graph.input[0].type.tensor_type.shape.dim
    ] == [
        "n_samples",
        6,
    ]


# --- Pipelines ------------------------------------------------------------------------------------------------------

ESTIMATORS = {"autoencoder": AUTOENCODER, "vae": VAE}


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_pipeline_converts_as_a_whole(name, dtype, seed):
    rng = np.random.default_rng(seed)
    pipeline = make_pipeline(StandardScaler(), clone(ESTIMATORS[name])).fit(make_rows(rng, 100))
    assert_agrees(pipeline, make_rows(rng, 50), dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", ESTIMATORS)
def test_estimator_in_the_middle_passes_its_codes_on(name, dtype, seed):
    rng = np.random.default_rng(seed)
    X, fresh = make_rows(rng, 150), make_rows(rng, 50).astype(dtype)
    y = (X[:, 0] > np.median(X[:, 0])) * 1
    pipeline = make_pipeline(MinMaxScaler(), clone(ESTIMATORS[name]), LogisticRegression()).fit(X, y)
    register_converters()
    model = skl2onnx.to_onnx(pipeline, fresh[:1], options={"zipmap": False})
    got = run(model, fresh)
    assert_close(got["probabilities"], pipeline.predict_proba(fresh), TOLERANCES[dtype])
    np.testing.assert_array_equal(got["label"], pipeline.predict(fresh))


@pytest.mark.parametrize("opset", [13, 17, 18])
def test_converter_speaks_older_and_newer_opsets(opset, seed):
    """The axes of reductions became inputs in opset 18."""
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(VAE).fit(X)
    register_converters()
    options = {VAETransformer: {"outputs": "all"}}
    model = skl2onnx.to_onnx(estimator, X[:1], options=options, target_opset=opset)
    assert {part.domain: part.version for part in model.opset_import}[""] == opset
    assert_agrees(estimator, X, "float64", model)


def test_converter_gives_codes_unless_told(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(AUTOENCODER).fit(X)
    register_converters()
    got = run(skl2onnx.to_onnx(estimator, X[:1]), X)
    assert list(got) == ["codes"]
    assert_close(got["codes"], estimator.transform(X), 1e-12)


def test_converter_joins_several_inputs(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(AUTOENCODER).fit(X)
    register_converters()
    kind = skl2onnx.common.data_types.DoubleTensorType
    model = skl2onnx.convert_sklearn(estimator, initial_types=[("a", kind([None, 2])), ("b", kind([None, 4]))])
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    assert_close(session.run(["codes"], {"a": X[:, :2], "b": X[:, 2:]})[0], estimator.transform(X), 1e-12)


def test_converter_refuses_another_width(seed):
    estimator = clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60))
    register_converters()
    with pytest.raises(ValueError, match="was fitted on 6 columns") as caught:
        skl2onnx.to_onnx(estimator, np.zeros((1, 5)))
    assert str(caught.value) == (
        "AutoencoderTransformer was fitted on 6 columns, but the graph gives it 5. Pass initial_types of that width."
    )


def test_pipeline_must_end_with_an_estimator_of_ours(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    pipeline = make_pipeline(clone(AUTOENCODER), StandardScaler()).fit(X)
    with pytest.raises(ValueError, match="needs a pipeline that ends") as caught:
        to_onnx(pipeline)
    assert str(caught.value) == (
        "to_onnx needs a pipeline that ends with an AutoencoderTransformer or a VAETransformer, but the last step is "
        "StandardScaler. Call register_converters() and skl2onnx.to_onnx(pipeline, X)."
    )


def test_pipeline_needs_skl2onnx(seed, monkeypatch):
    pipeline = make_pipeline(StandardScaler(), clone(AUTOENCODER)).fit(make_rows(np.random.default_rng(seed), 60))
    monkeypatch.setitem(sys.modules, "skl2onnx", None)
    for convert in (lambda: to_onnx(pipeline), register_converters):
        with pytest.raises(ImportError) as caught:
            convert()
        assert str(caught.value) == ("Converting a pipeline needs skl2onnx. Install it with: pip install 'skvae[onnx]'")


# --- Refusals -------------------------------------------------------------------------------------------------------

REFUSED = {
    "counts": (
        VAE,
        {"likelihood": "poisson", "score_method": "log_likelihood"},
        "float32",
        "to_onnx cannot express score_method='log_likelihood' with likelihood='poisson'. Fit with "
        "score_method='joint', or serve the estimator itself.",
    ),
    "counts by the elbo": (
        VAE,
        {"likelihood": "negative_binomial", "score_method": "elbo"},
        "float64",
        "to_onnx cannot express score_method='elbo' with likelihood='negative_binomial'. Fit with "
        "score_method='joint', or serve the estimator itself.",
    ),
    "counts of a column": (
        VAE,
        {"likelihood": {1: "negative_binomial"}, "score_method": "log_likelihood"},
        "float32",
        "to_onnx cannot express score_method='log_likelihood' with likelihood='negative_binomial'. Fit with "
        "score_method='joint', or serve the estimator itself.",
    ),
    "gelu": (
        AUTOENCODER,
        {"activation": "gelu"},
        "float64",
        "to_onnx cannot express activation='gelu' in float64, for which runtimes have no error function. Fit with "
        "another one, such as 'silu', export with dtype='float32', or serve the estimator itself.",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_graph_cannot_express_is_refused_by_name(what, seed):
    estimator, parameters, dtype, message = REFUSED[what]
    X = make_rows(np.random.default_rng(seed), 60)
    X = (X > 5) * 1.0 if "likelihood" in parameters else X
    estimator = clone(estimator).set_params(**parameters).fit(X)
    with pytest.raises(ValueError, match="cannot express") as caught:
        to_onnx(estimator, dtype=dtype)
    assert str(caught.value) == message


def test_learned_anomalies_are_refused(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    estimator = clone(AUTOENCODER).fit(X).learn_anomalies(X[:1] + 9.0)
    with pytest.raises(ValueError, match="cannot express") as caught:
        to_onnx(estimator)
    assert str(caught.value) == (
        "to_onnx cannot express learned anomalies. Forget them by learn_anomalies(X[:0]), or serve the estimator "
        "itself."
    )
    to_onnx(estimator.learn_anomalies(X[:0]))


def test_other_score_than_that_of_the_fit_is_refused(seed):
    estimator = clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60)).set_params(score_method="residual")
    with pytest.raises(ValueError, match="score_method") as caught:
        to_onnx(estimator)
    assert str(caught.value) == (
        "score_method must be 'joint', as in the fit, which estimated the densities of no other score, but it is "
        "'residual' now. Call fit again, or set it back."
    )


def test_every_family_is_served_or_refused():
    named = [parameters.get("likelihood") for _, parameters, _ in FAMILIES.values()]
    served = {name for name in named if isinstance(name, str)}
    assert served == set(LIKELIHOODS)


@pytest.mark.parametrize("estimator", [AUTOENCODER, VAE], ids=["autoencoder", "vae"])
@pytest.mark.parametrize("numbered", [False, True])
def test_frames_of_numbers_are_served(estimator, numbered, seed):
    X = pd.DataFrame(make_rows(np.random.default_rng(seed), 60)).add_prefix("x").assign(visits=np.arange(60) % 50)
    if numbered:
        X = X.assign(case=np.arange(60))  # left out
    with pytest.warns(UserWarning, match="^Identifiers") if numbered else nullcontext():
        model = clone(estimator).fit(X)
    graph = to_onnx(model, dtype="float64").SerializeToString()
    outputs = ["scores", "reconstruction"]
    scores, whole = onnxruntime.InferenceSession(graph).run(outputs, {"X": X.to_numpy(np.float64)})
    np.testing.assert_allclose(scores, model.score_samples(X), rtol=1e-9)
    np.testing.assert_allclose(whole[:, : -1 - numbered], model.reconstruct(X).iloc[:, : -1 - numbered], rtol=1e-9)
    np.testing.assert_allclose(whole[:, -1].round(), model.reconstruct(X).iloc[:, -1])  # of integers


def test_maps_of_columns_are_refused(seed):
    X = make_rows(np.random.default_rng(seed), 60)
    with pytest.raises(ValueError, match="cannot express") as caught:
        to_onnx(clone(VAE).set_params(marginals="auto").fit(X))
    assert str(caught.value) == (
        "to_onnx cannot express the maps that marginals='auto' learns. Fit with marginals=None, or serve the estimator "
        "itself."
    )


def test_densities_of_incomplete_residuals_are_refused(seed):
    rng = np.random.default_rng(seed)
    estimator = clone(AUTOENCODER).set_params(score_method="residual").fit(with_holes(rng, make_rows(rng, 80)))
    with pytest.raises(ValueError, match="missing cells") as caught:
        to_onnx(estimator)
    assert str(caught.value) == (
        "to_onnx cannot express score_method='residual' with missing cells in the training rows. Fit with "
        "score_method='joint', or serve the estimator itself."
    )


@pytest.mark.filterwarnings("ignore:Column 'x1' holds no value:UserWarning")  # that is the case
def test_empty_column_is_refused(seed):
    X = make_rows(np.random.default_rng(seed), 80)
    X[:, 1] = np.nan
    with pytest.raises(ValueError, match="without any value") as caught:
        to_onnx(clone(AUTOENCODER).fit(X))
    assert str(caught.value) == (
        "to_onnx cannot express a column without any value in the training rows. Drop the column before the fit, or "
        "serve the estimator itself."
    )


def test_a_missing_cell_that_training_had_not_seen_gives_nan_and_a_flag(seed):
    """Where the estimator would fill the cell, the graph says that it cannot."""
    X = make_rows(np.random.default_rng(seed), 60)
    model = to_onnx(clone(AUTOENCODER).fit(X), dtype="float64")
    X[4, 1] = np.nan
    got = run(model, X)
    assert np.isnan(got["scores"]).tolist() == [row == 4 for row in range(60)]
    assert got["labels"][4] == -1


@pytest.mark.parametrize("estimator", [AUTOENCODER, VAE], ids=["autoencoder", "vae"])
def test_a_missing_cell_in_a_complete_column_gives_nan_beside_columns_with_gaps(estimator, seed):
    """Rows without any value included, which would otherwise pass for rows that the encoder knows."""
    rng = np.random.default_rng(seed)
    X = make_rows(rng, 60)
    X[:, 0] = np.where(rng.random(60) < 0.2, np.nan, X[:, 0])
    fitted = clone(estimator).fit(X)
    X[4, 1], X[7, :] = np.nan, np.nan
    got = run(to_onnx(fitted, dtype="float64"), X)
    assert np.isnan(got["scores"]).tolist() == [row in (4, 7) for row in range(60)]
    assert got["labels"][[4, 7]].tolist() == [-1, -1]
    others = ~np.isin(np.arange(60), [4, 7])
    np.testing.assert_allclose(got["scores"][others], fitted.score_samples(X)[others], rtol=1e-9)


def test_unfitted_estimator_is_refused():
    with pytest.raises(ValueError, match="needs a fitted estimator") as caught:
        to_onnx(clone(VAE))
    assert str(caught.value) == "to_onnx needs a fitted estimator, but this VAETransformer has not been fitted."


def test_other_estimators_are_refused():
    with pytest.raises(TypeError) as caught:
        to_onnx(StandardScaler())
    assert str(caught.value) == (
        "to_onnx takes an AutoencoderTransformer, a VAETransformer or a pipeline that ends with one, but "
        "StandardScaler came. Export it with skl2onnx."
    )


def test_other_precision_is_refused():
    with pytest.raises(ValueError, match="dtype") as caught:
        to_onnx(clone(VAE), dtype="float16")
    assert str(caught.value) == "The 'dtype' parameter must be 'float32' or 'float64'. Got 'float16' instead."


def test_needs_onnx(seed, monkeypatch):
    estimator = clone(AUTOENCODER).fit(make_rows(np.random.default_rng(seed), 60))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError) as caught:
        to_onnx(estimator)
    assert str(caught.value) == "to_onnx needs onnx. Install it with: pip install 'skvae[onnx]'"
