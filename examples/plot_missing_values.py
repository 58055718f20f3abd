"""
=====================================================================
Imputation: how well can half of a table be told from the other half?
=====================================================================

Half of the cells of the breast cancer table are hidden at random. A VAE learns from
what is left, fills the hidden cells with their expected values, and draws completed
tables whose spread says how sure each filled cell is.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.impute import KNNImputer, SimpleImputer

from skvae import VAETransformer

X = load_breast_cancer(as_frame=True).data
scale = X.std().to_numpy()
hidden = np.random.default_rng(0).random(X.shape) < 0.5
incomplete = X.mask(hidden)

# %%
# One table, filled
# -----------------
vae = VAETransformer(random_state=0).fit(incomplete)
fillings = {
    "column mean": SimpleImputer().fit_transform(incomplete),
    "5 nearest rows": KNNImputer().fit_transform(incomplete / scale) * scale,
    "VAETransformer": vae.impute(incomplete).to_numpy(),
}
print(
    "Root mean square error of the hidden cells, in standard deviations of "
    "their column:"
)
for name, filled in fillings.items():
    error = (filled - X.to_numpy()) / scale
    print(f"  {name:15s} {np.sqrt(np.square(error[hidden]).mean()):.3f}")

# %%
# Fifty tables, drawn
# -------------------
draws = np.stack([table.to_numpy() for table in vae.impute(incomplete, n_draws=50)])
low, high = np.quantile(draws, [0.05, 0.95], axis=0)
inside = ((low <= X.to_numpy()) & (X.to_numpy() <= high))[hidden].mean()
print(
    f"{inside:.0%} of the hidden cells lie between the 5 % and 95 % quantiles "
    "of 50 draws."
)

# %%
# Sixty cells
# -----------
column = X.columns.get_loc("mean radius")
rows = np.flatnonzero(hidden[:, column])[:60]
rows = rows[np.argsort(X.iloc[rows, column])]
middle = fillings["VAETransformer"][rows, column]
bars = np.maximum([middle - low[rows, column], high[rows, column] - middle], 0.0)
figure, axes = plt.subplots(figsize=(8, 4))
axes.errorbar(
    np.arange(len(rows)),
    middle,
    bars,
    fmt="o",
    ms=3,
    lw=1,
    label="filled, and 90 % of 50 draws",
)
axes.plot(X.iloc[rows, column].to_numpy(), "k_", ms=8, label="what was hidden")
axes.set(xlabel="rows whose 'mean radius' is hidden", ylabel="mean radius")
axes.legend()
figure.savefig("plot_missing_values.png", dpi=120, bbox_inches="tight")
