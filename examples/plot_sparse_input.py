"""
=================================================================
Sparse input: how do I score rows of a thousand counts, mostly 0?
=================================================================

Sessions on a server are counts of a thousand events. As a sparse matrix they are small;
a TruncatedSVD takes them to thirty columns without ever making them dense, and from
there on they are a table like any other. Texts go the same way behind TfidfVectorizer.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.sparse import csr_array
from sklearn.decomposition import TruncatedSVD
from sklearn.ensemble import IsolationForest
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline

from skvae import AutoencoderTransformer
from skvae.display import AnomalyScoreDisplay

rng = np.random.default_rng(0)
TASKS = rng.dirichlet(
    np.full(1_000, 0.01), size=20
)  # of 20 tasks, how likely each event


def sessions(n_rows, unusual=False):
    """A task is followed by the next one of the list, or, where unusual, by any."""
    first = rng.integers(20, size=n_rows)
    second = rng.integers(20, size=n_rows) if unusual else (first + 1) % 20
    return csr_array(rng.poisson(15 * (TASKS[first] + TASKS[second])))


train, fresh, unusual = sessions(3_000), sessions(500), sessions(100, unusual=True)

# %%
# The pipeline takes the sparse matrix; the detector alone would ask for a dense one.
shrink = TruncatedSVD(30, random_state=0).fit(train)
cells, share = np.prod(train.shape), train.nnz / np.prod(train.shape)
print(f"{cells / 1e6:.0f} million cells, {share:.1%} of them not 0")
rows = [fresh, unusual]
kind = np.repeat(["usual", "unusual"], [500, 100])
for detector in (
    IsolationForest(random_state=0),
    AutoencoderTransformer(random_state=0),
):
    pipe = make_pipeline(shrink, detector).fit(train)
    scores = np.concatenate([pipe.score_samples(part) for part in rows])
    auroc = roc_auc_score(kind == "usual", scores)
    print(f"{type(detector).__name__:<22} AUROC {auroc:.3f}")
shares = [f"{(pipe.predict(part) == -1).mean():.0%}" for part in rows]
print(f"flagged: {shares[0]} of fresh sessions, {shares[1]} of unusual ones")

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
codes = np.concatenate([shrink.transform(part) for part in rows])
AnomalyScoreDisplay.from_estimator(pipe[-1], codes, y=kind, ax=ax)
figure.savefig("sparse_input.png", dpi=90)
