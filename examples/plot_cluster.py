"""
==================================================================
Large jobs: how do I search and score on the machines that I have?
==================================================================

On a cluster of `Dask <https://www.dask.org>`_. Here it is two workers in this process;
``Client("tcp://...")`` instead of the local one reaches any other. joblib's "dask"
backend spreads a grid search over the workers, and ``dask.array.map_blocks`` scores a
table of which no machine has to hold more than a block.
"""

import dask.array as da
import joblib
import matplotlib.pyplot as plt
import numpy as np
from distributed import Client
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV

from skvae import VAETransformer

# %%
# The search
# ----------
# Each fit is one task. ``score`` is a log-likelihood, so no labels are needed.
X, y = load_breast_cancer(return_X_y=True)
benign, malignant = X[y == 1], X[y == 0]
client = Client(
    n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None
)
model = VAETransformer(random_state=0)
search = GridSearchCV(model, {"n_components": [2, 4, 8]}, cv=2)
with joblib.parallel_config("dask"):
    search.fit(benign[::2])
for candidate, score in zip(
    search.cv_results_["params"], search.cv_results_["mean_test_score"], strict=True
):
    print(f"{candidate['n_components']:>3} components: {score:.1f} nats per sample")

# %%
# The scores
# ----------
# A row's score does not depend on the rows beside it, so a block may have any size that
# a worker can hold.
detector, fresh = search.best_estimator_, benign[1::2]
stream = da.from_array(np.vstack([fresh, malignant]), chunks=(100, -1))
scores = stream.map_blocks(detector.score_samples, drop_axis=1, dtype=float).compute()
client.close()
flagged, is_malignant = scores < detector.offset_, np.arange(len(scores)) >= len(fresh)
share = {
    name: flagged[rows].mean()
    for name, rows in (("malignant", is_malignant), ("benign", ~is_malignant))
}
print(
    f"{share['malignant']:.0%} of the malignant and {share['benign']:.0%} of "
    "the benign samples flagged"
)

# %%
# The picture
# -----------
figure, ax = plt.subplots(figsize=(7, 3.5), layout="constrained")
edges = np.linspace(scores.min(), scores.max(), 50)
ax.hist(scores[is_malignant], edges, color="#d1495b", alpha=0.75, label="malignant")
ax.hist(
    scores[~is_malignant],
    edges,
    color="#3b75af",
    alpha=0.75,
    label="benign, not seen in training",
)
ax.axvline(detector.offset_, color="0.2", linestyle="--", label="threshold of predict")
ax.set(title="Scored block by block", xlabel="score_samples, in nats", ylabel="samples")
ax.legend(frameon=False, loc="upper left")
ax.spines[["top", "right"]].set_visible(False)
figure.savefig("plot_cluster.png", dpi=100)
print("\nPicture: plot_cluster.png")
