"""Graphs of an autoregressive decoder: onnxruntime gives what the estimator gives, of every family and network."""

import numpy as np
import onnxruntime
import pytest
import torch
from test_onnx import LEVELS, LEVELS_AND_COUNTS, MIXED, TOLERANCES, assert_agrees, assert_close, rows_of

from skvae import VAETransformer
from skvae._support.graph import Graph
from skvae.likelihoods import Autoregressive, Categorical, ColumnGroups, Gaussian, Mixture, Poisson, StudentT
from skvae.onnx import to_onnx
from skvae.onnx.export import _imported_onnx
from skvae.onnx.in_turn import ColumnsInTurn

FAST = {"hidden_layer_sizes": (8, 5), "max_iter": 3, "tol": 1e3, "latent_density": 1, "random_state": 0}
CASES = {
    "auto": {},
    "constant": {"scale": "constant"},
    "gaussian": {"likelihood": "gaussian"},
    "student_t": {"likelihood": "student_t", "scale": "constant"},
    "bernoulli": {"likelihood": "bernoulli"},
    "categorical": {"likelihood": "categorical"},
    "poisson": {"likelihood": "poisson"},
    "groups": {"likelihood": MIXED},
    "levels": {"likelihood": LEVELS},
    "levels and counts": {"likelihood": LEVELS_AND_COUNTS},
    "two networks": {"n_networks": 2},
    "linear": {"hidden_layer_sizes": ()},
    "uneven": {"hidden_layer_sizes": (40, 2, 9)},
}
QUICK = ("auto", "levels")
WITHOUT_LOG_PROB = ("poisson", "levels and counts")  # runtimes have no log-gamma


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "gaps"])
@pytest.mark.parametrize("case", [pytest.param(c, marks=[] if c in QUICK else [pytest.mark.slow]) for c in CASES])
def test_runtime_agrees(case, missing, dtype, seed):
    rng, given = np.random.default_rng(seed), FAST | CASES[case]
    likelihood = given.get("likelihood")
    vae = VAETransformer(2, decoder="autoregressive", **given).fit(rows_of(rng, likelihood, 120, missing=missing))
    assert_agrees(vae, rows_of(rng, likelihood, 40, missing=missing), dtype)


@pytest.mark.parametrize(
    ("method", "dtype"), [("log_likelihood", "float32"), ("log_likelihood", "float64"), ("elbo", "float64")]
)
@pytest.mark.parametrize("missing", [False, True], ids=["complete", "gaps"])
@pytest.mark.parametrize(
    "case",
    [pytest.param(c, marks=[] if c == "auto" else [pytest.mark.slow]) for c in CASES if c not in WITHOUT_LOG_PROB],
)
def test_runtime_agrees_on_likelihoods(case, missing, method, dtype, seed):
    rng, given = np.random.default_rng(seed), FAST | CASES[case] | {"score_method": method}
    likelihood = given.get("likelihood")
    vae = VAETransformer(2, decoder="autoregressive", **given).fit(rows_of(rng, likelihood, 120, missing=missing))
    assert_agrees(vae, rows_of(rng, likelihood, 40, missing=missing), dtype)


@pytest.mark.parametrize("method", ["residual", "reconstruction", "neighbor"])
@pytest.mark.slow
def test_runtime_agrees_on_each_score(method, seed):
    rng = np.random.default_rng(seed)
    vae = VAETransformer(2, decoder="autoregressive", score_method=method, **FAST)
    vae.fit(rows_of(rng, None, 120, missing=False))
    assert_agrees(vae, rows_of(rng, None, 40, missing=False), "float64")


def evaluated(graph, outputs, **fed):
    """Numbers of a graph's results."""
    shapes = {name: (array.dtype, list(array.shape)) for name, array in fed.items()}
    results = {name: (np.float64, [None, None]) for name in outputs}
    session = onnxruntime.InferenceSession(
        graph.model(shapes, results).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    return session.run(list(outputs), fed)


@pytest.mark.parametrize("hidden", [(), (3,), (20, 2, 9)], ids=["linear", "one layer", "three layers"])
def test_nodes_are_the_likelihood(hidden, seed):
    """Of random parameters, which no short fit has: each family, cells that are missing or far off."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    groups = [Mixture(StudentT(9, scale="dependent"), 3), Categorical([3, 2]), Poisson(1), Gaussian(1)]
    likelihood = Autoregressive(ColumnGroups(groups, [[1, 3, 6], [0, 5], [2], [4]]), hidden)
    outputs, free = draw(30, likelihood.n_outputs), draw(likelihood.n_free)
    x = (draw(30, 7) > 0).double()
    x[:, [1, 3, 4]] = 2e3 * draw(30, 3)
    shown = draw(30, 7) > -0.5
    graph = Graph(_imported_onnx(), "float64")
    nodes = ColumnsInTurn(graph, likelihood, free)
    names = *nodes.expected("y"), nodes.given("x", None, "y"), nodes.given("x", "missing", "y")
    mean, in_turn, complete, some = evaluated(graph, names, y=outputs.numpy(), x=x.numpy(), missing=~shown.numpy())
    assert_close(mean, likelihood.mean(outputs, free).numpy(), 1e-12)
    assert_close(in_turn, likelihood._expected_outputs(outputs, free).numpy(), 1e-12)
    assert_close(complete, likelihood.outputs_given(x, outputs, free).numpy(), 1e-12)
    assert_close(some, likelihood.outputs_given(x, outputs, free, shown).numpy(), 1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"score_method": "log_likelihood", "likelihood": {1: "poisson"}},
            "to_onnx cannot express score_method='log_likelihood' with likelihood='poisson'. Fit with "
            "score_method='joint', or serve the estimator itself.",
        ),
        (
            {"likelihood": "gaussian", "scale": "shared"},
            "to_onnx cannot express scale='shared' with decoder='autoregressive'. Fit with scale='dependent', or serve "
            "the estimator itself.",
        ),
    ],
    ids=["likelihood", "shared scale"],
)
def test_what_a_graph_cannot_express_is_refused(options, message, seed):
    X = np.random.default_rng(seed).normal(size=(60, 3))
    X[:, 1] = np.abs(X[:, 1].round())
    vae = VAETransformer(2, decoder="autoregressive", **FAST | options).fit(X)
    with pytest.raises(ValueError, match="^to_onnx") as caught:
        to_onnx(vae)
    assert str(caught.value) == message
