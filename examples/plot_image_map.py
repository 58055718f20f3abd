"""
===============================================================
Images: which settings make a map of them in two dimensions?
===============================================================

Half of the handwritten digits teach a VAE with two components, the other half is placed
by it. How good a map is, neighbours tell: the class of ten digits that are near says
which class a digit should have. As they come, the settings are those for tables whose
columns have units of their own; three of them are wrong for pixels.
"""

import matplotlib.pyplot as plt
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA
from sklearn.model_selection import train_test_split
from sklearn.neighbors import KNeighborsClassifier

from skvae import VAETransformer

X, y = load_digits(return_X_y=True)
train, test, y_train, y_test = train_test_split(
    X / 16, y, test_size=0.5, stratify=y, random_state=0
)

# %%
# ``standardize=False``: a pixel at the rim that is hardly ever inked is not as
# important as one in the middle. ``scale="shared"``: one noise for all pixels of an
# image, learned. ``dropout=0.0``: two numbers are narrow enough.
steps = {"standardize": False, "scale": "shared", "dropout": 0.0}
maps = {"PCA": PCA(2), "VAE, as it comes": VAETransformer(2, random_state=0)}
for number in (1, 3):
    settings = dict(list(steps.items())[:number])
    name = "VAE, " + ", ".join(settings)
    maps[name] = VAETransformer(2, **settings, random_state=0)

# %%
# New images have a place on a map, which umap's and t-SNE's neighbours would have to be
# searched for, and each place has an image: ``inverse_transform``.
figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
for ax, (name, model) in zip(axes, maps.items(), strict=True):
    near = KNeighborsClassifier(10).fit(model.fit_transform(train), y_train)
    codes = model.transform(test)
    print(f"{name:<34} {near.score(codes, y_test):.3f} of the neighbours are right")
    dots = ax.scatter(*codes.T, c=y_test, cmap="tab10", vmin=-0.5, vmax=9.5, s=8)
    ax.set_title(name.replace(", ", "\n", 1), fontsize=10)
figure.colorbar(dots, ax=axes, ticks=range(10), label="digit")
figure.savefig("image_map.png", dpi=90)
