"""On a cluster of Dask a search spreads over the workers and a table is scored in blocks; no number changes."""

import dask.array as da
import joblib
import numpy as np
import pytest
from distributed import Client
from sklearn.model_selection import GridSearchCV

from skvae import AutoencoderTransformer, VAETransformer

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster():
    """Two workers in threads of this process."""
    with Client(n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None) as client:
        yield client


@pytest.fixture
def X(seed):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(300, 2)) @ rng.normal(size=(2, 4)) + 0.1 * rng.normal(size=(300, 4))


def small(kind, **options):
    return kind(2, hidden_layer_sizes=(8,), max_iter=2, tol=10.0, random_state=0, **options)


def test_search_on_a_cluster_equals_the_search_here(cluster, X):
    search = GridSearchCV(small(AutoencoderTransformer), {"n_components": [1, 3]}, cv=2)
    here = search.fit(X).cv_results_["mean_test_score"]
    with joblib.parallel_config("dask"):
        there = search.fit(X).cv_results_["mean_test_score"]
    np.testing.assert_array_equal(there, here)


def test_fit_that_fails_on_a_cluster_says_why(cluster, X):
    search = GridSearchCV(small(AutoencoderTransformer), {"n_components": [0]}, cv=2, error_score="raise")
    with joblib.parallel_config("dask"), pytest.raises(ValueError, match="The 'n_components' parameter"):
        search.fit(X)


@pytest.mark.parametrize("kind", [AutoencoderTransformer, VAETransformer])
def test_blocks_are_scored_as_the_table(cluster, X, kind):
    model, rows = small(kind).fit(X), da.from_array(X, chunks=(77, -1))
    scores = rows.map_blocks(model.score_samples, drop_axis=1, dtype=float).compute()
    codes = rows.map_blocks(model.transform, chunks=(rows.chunks[0], (2,)), dtype=float).compute()
    np.testing.assert_array_equal(scores, model.score_samples(X))
    np.testing.assert_array_equal(codes, model.transform(X))
