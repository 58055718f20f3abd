"""
============================================================================
Dimensionality reduction: what does a latent space of two numbers look like?
============================================================================

An autoencoder and a variational autoencoder each place 1,797 handwritten digits on a
plane. The VAE pulls its codes towards the standard normal distribution, so that its
draws can be decoded at once into new digits. The autoencoder's plane may have any
shape; here a Gaussian is fitted to its codes before drawing.

On a plane the VAE pays for its order: there is hardly room for ten classes, and the
autoencoder, free to spread them, separates and reconstructs them better. With more
components the gaps between its codes begin to show, see plot_interpolation.py.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from skvae import AutoencoderTransformer, VAETransformer

X, y = load_digits(return_X_y=True)
X = X / 16

# %%
# Two planes
# ----------
shared = {
    "n_components": 2,
    "standardize": False,
    "noise": 0.0,
    "max_iter": 150,
    "random_state": 0,
}
# All pixels share one unit: they are not standardised, and have plain Gaussian noise of
# at least a tenth of full ink.
noise = {
    "likelihood": "gaussian",
    "scale": "constant",
    "min_scale": 0.1,
    "dropout": 0.0,
}
models = {
    "autoencoder": AutoencoderTransformer(**shared).fit(X),
    "VAE": VAETransformer(**noise, **shared).fit(X),
}
codes = {name: model.transform(X) for name, model in models.items()}

# %%
# New digits from each
# --------------------
normal = np.random.default_rng(0).normal(size=(300, 2))
center, spread = (
    codes["autoencoder"].mean(axis=0),
    np.linalg.cholesky(np.cov(codes["autoencoder"].T)),
)
draws = {"autoencoder": center + normal @ spread.T, "VAE": normal}
judge = LogisticRegression(max_iter=1000).fit(X, y)
for name, model in models.items():
    sure = np.mean(
        judge.predict_proba(model.inverse_transform(draws[name])).max(axis=1) >= 0.9
    )
    crowd = (
        KNeighborsClassifier(10)
        .fit(codes[name][::2], y[::2])
        .score(codes[name][1::2], y[1::2])
    )
    error = np.mean((model.reconstruct(X) - X) ** 2)
    print(
        f"{name}: {sure:.0%} of 300 draws are taken for a digit (a judge is at "
        "least 90 % sure);"
    )
    print(
        f"  class by the nearest codes {crowd:.0%} right, reconstruction error "
        f"{error:.4f}"
    )

# %%
# The picture
# -----------
# Left the codes of all digits, crosses where the first 64 draws fall; right what these
# decode to.
figure, grid = plt.subplots(
    2, 2, figsize=(9, 8.2), width_ratios=[1.15, 1], layout="constrained"
)
for (left, right), (name, model) in zip(grid, models.items(), strict=True):
    dots = left.scatter(
        *codes[name].T, c=y, cmap="tab10", vmin=-0.5, vmax=9.5, s=7, alpha=0.8
    )
    left.scatter(*draws[name][:64].T, marker="x", color="black", s=22, linewidth=0.8)
    left.set(
        title=f"{name}: codes",
        xlabel="component 0",
        ylabel="component 1",
        aspect="equal",
    )
    left.spines[["top", "right"]].set_visible(False)
    images = np.pad(
        model.inverse_transform(draws[name][:64]).reshape(8, 8, 8, 8),
        ((0, 0), (0, 0), (1, 1), (1, 1)),
    )
    right.imshow(
        images.transpose(0, 2, 1, 3).reshape(80, 80), cmap="gray_r", vmin=0, vmax=1
    )
    right.set(title=f"{name}: 64 draws, decoded", xticks=[], yticks=[])
    right.spines[:].set_visible(False)
    figure.colorbar(dots, ax=left, ticks=range(10), label="digit", shrink=0.8)
figure.savefig("plot_latent_space.png", dpi=100)
print("\nPicture: plot_latent_space.png")
