"""
===================================================================
Imputation: which imputer before a regressor loses the least of R²?
===================================================================

Breast cancer: how large the worst cells are is to be told from ten means, of which a
fifth or a half is missing at random, in training and in test rows. Each imputer is a
step of the same pipeline, and is fitted anew in every fold.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer
from sklearn.model_selection import cross_val_score
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skvae.impute import AutoencoderImputer

data = load_breast_cancer(as_frame=True).data
X, y = data.iloc[:, :10].to_numpy(), np.log(data["worst area"])
IMPUTERS = {
    "AutoencoderImputer": AutoencoderImputer(),
    "IterativeImputer": IterativeImputer(max_iter=100, tol=0.01, random_state=0),
    "KNNImputer": KNNImputer(),
    "mean": SimpleImputer(),
}
SHARES = [0.2, 0.5]

found = {name: [] for name in IMPUTERS}
for share in SHARES:
    holed = np.where(np.random.default_rng(0).random(X.shape) < share, np.nan, X)
    for name, imputer in IMPUTERS.items():
        pipe = make_pipeline(imputer, StandardScaler(), KNeighborsRegressor())
        found[name].append(cross_val_score(pipe, holed, y, cv=2, scoring="r2").mean())
complete = cross_val_score(
    make_pipeline(StandardScaler(), KNeighborsRegressor()), X, y, cv=2, scoring="r2"
).mean()

print(f"R² with all values: {complete:.3f}")
for name, scores in found.items():
    print(
        f"{name:<20}",
        *(
            f"{share:.0%} missing: {score:.3f}"
            for share, score in zip(SHARES, scores, strict=True)
        ),
    )

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
for name, scores in found.items():
    ax.plot(SHARES, scores, "o-", label=name)
ax.axhline(complete, linestyle=":", color="0.5", label="nothing missing")
ax.set(xlabel="fraction of values missing", ylabel="cross-validated R²", xticks=SHARES)
ax.legend(frameon=False)
figure.savefig("impute_regression.png", dpi=90)
