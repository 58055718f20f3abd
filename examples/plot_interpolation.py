"""
===================================================
Interpolation: what lies between a five and a zero?
===================================================

Both models squeeze an 8 x 8 image into eight numbers, and decoding the straight line
between two codes gives a path from one image to the other. Nothing tells an autoencoder
what the points between two codes should decode to; the variational autoencoder is
trained on clouds that overlap, so that they should decode to something like a digit.

A judge decides how far that holds: a classifier trained on real digits. Counted are the
inner points of 300 paths between digits of different classes of which it is at least 90
% sure. Blending the pixels and interpolating in PCA show what comes for free; real test
digits show what can be had at most. The judge matters: a laxer one, such as ten nearest
neighbours, likes blended pixels as much as the VAE's path, since the ink of two real
digits is in them.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

from skvae import AutoencoderTransformer, VAETransformer

N_STEPS = 11
X, y = load_digits(return_X_y=True)
X_train, X_test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.2, random_state=0, stratify=y
)

# %%
# The models
# ----------
# The same network for both. All pixels share one unit, so they are not standardised,
# and have plain Gaussian noise of one scale: a scale for each pixel would let the
# bright ones blur. ``beta=4`` weighs the overlap of the clouds higher than the
# likelihood does, and ``kl_warmup`` lets the codes find their places first.
layers = (128, 128, 128)
shared = {
    "n_components": 8,
    "hidden_layer_sizes": layers,
    "standardize": False,
    "noise": 0.0,
    "random_state": 0,
}
autoencoder = AutoencoderTransformer(max_iter=100, **shared).fit(X_train)
noise = {"likelihood": "gaussian", "scale": "shared", "dropout": 0.0}
vae = VAETransformer(beta=4.0, kl_warmup=0.2, max_iter=150, **noise, **shared).fit(
    X_train
)
pca = PCA(n_components=8).fit(X_train)
share = np.linspace(0, 1, N_STEPS)[:, None]


def straight(start, end):
    """Points on the lines between paired rows."""
    return (1 - share) * start[:, None] + share * end[:, None]


def pca_path(start, end):
    """Straight lines between the codes of PCA, decoded."""
    return pca.inverse_transform(
        straight(pca.transform(start), pca.transform(end)).reshape(-1, 8)
    )


PATHS = {
    "pixel average": straight,
    "PCA": pca_path,
    "autoencoder": lambda start, end: autoencoder.interpolate(
        start, end, n_steps=N_STEPS
    ),
    "VAE, beta 4": lambda start, end: vae.interpolate(start, end, n_steps=N_STEPS),
}

# %%
# The judge
# ---------
judge = LogisticRegression(max_iter=1000).fit(X_train, y_train)


def share_of_digits(images):
    """Share of images that the judge takes for a digit, at least 90 % sure."""
    return np.mean(judge.predict_proba(images.reshape(-1, 64)).max(axis=1) >= 0.9)


pairs = np.random.default_rng(0).integers(len(X_test), size=(2, 400))
start, end = pairs[:, y_test[pairs[0]] != y_test[pairs[1]]][:, :300]
inner = {
    name: share_of_digits(
        path(X_test[start], X_test[end]).reshape(-1, N_STEPS, 64)[:, 1:-1]
    )
    for name, path in PATHS.items()
}
error = {
    "pixel average": 0.0,
    "PCA": np.mean((pca.inverse_transform(pca.transform(X_test)) - X_test) ** 2),
    "autoencoder": np.mean((autoencoder.reconstruct(X_test) - X_test) ** 2),
    "VAE, beta 4": np.mean((vae.reconstruct(X_test) - X_test) ** 2),
}
print(f"{'':<15}taken for a digit   reconstruction error")
for name in PATHS:
    print(f"{name:<15}{inner[name]:>13.2f}{error[name]:>20.4f}")
print(f"{'real digits':<15}{share_of_digits(X_test):>13.2f}")

# %%
# The picture
# -----------
# The frame of an image is the judge's verdict: blue where it is at least 90 % sure.
five, zero = X_test[y_test == 5][:1], X_test[y_test == 0][:1]
figure, grid = plt.subplots(
    len(PATHS), N_STEPS, figsize=(10, 4.6), layout="constrained"
)
for axes, (name, path) in zip(grid, PATHS.items(), strict=True):
    images = path(five, zero).reshape(N_STEPS, 64)
    for ax, image, sure in zip(
        axes, images, judge.predict_proba(images).max(axis=1), strict=True
    ):
        ax.imshow(image.reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set(
            color="#3b75af" if sure >= 0.9 else "0.8",
            linewidth=2.5 if sure >= 0.9 else 1,
        )
    axes[0].set_ylabel(
        f"{name}\n{inner[name]:.0%}", rotation=0, ha="right", va="center"
    )
figure.suptitle(
    "From a five to a zero; beside each row, how much of 300 such paths a "
    "judge takes for digits"
)
figure.savefig("plot_interpolation.png", dpi=110)
print("\nPicture: plot_interpolation.png")
