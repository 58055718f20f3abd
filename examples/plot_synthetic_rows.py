"""
====================================================================
Synthetic data: are drawn rows useful, and do they repeat real ones?
====================================================================

Wine, 13 measurements of three kinds. A VAE draws as many rows as it saw; a classifier
that learned from these is tested on real rows, and distances tell whether drawn rows
lie closer to training rows than other real rows do.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_wine
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import pairwise_distances
from sklearn.model_selection import train_test_split

from skvae import VAETransformer
from skvae.report import report

frame = load_wine(as_frame=True).frame
frame["target"] = frame["target"].map({0: "Barolo", 1: "Grignolino", 2: "Barbera"})
train, fresh = train_test_split(frame, test_size=0.4, random_state=0)
# marginals="auto" draws values that a column has: whole numbers, steps, zeros.
vae = VAETransformer(marginals="auto", random_state=0).fit(train)
drawn = vae.sample(len(train), random_state=0)
numbers = train.columns[:-1]

# %%
# Useful: the same classifier, trained on real and on drawn rows.
for name, rows in {"real": train, "drawn": drawn}.items():
    forest = RandomForestClassifier(random_state=0).fit(rows[numbers], rows["target"])
    accuracy = forest.score(fresh[numbers], fresh["target"])
    print(f"trained on {name} rows, accuracy on fresh real ones: {accuracy:.3f}")

# %%
# Private: the distance to the closest training row, of drawn rows and of fresh real
# ones. A ratio far below 1 says that rows are repeated. It is a hint, no proof: whoever
# is odd is easy to recognise.
scale = train[numbers].std()
closest = {
    name: pairwise_distances(rows[numbers] / scale, train[numbers] / scale).min(axis=1)
    for name, rows in {"fresh": fresh, "drawn": drawn}.items()
}
ratio = np.median(closest["drawn"]) / np.median(closest["fresh"])
print(f"distance ratio: {ratio:.2f}\n\n{report(vae, fresh)}")

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 3.5), layout="constrained")
for ax, name, rows in zip(axes, ("real", "drawn"), (frame, drawn), strict=False):
    for kind, part in rows.groupby("target"):
        ax.scatter(part["flavanoids"], part["color_intensity"], s=12, label=kind)
    ax.set(title=f"{name} rows", xlabel="flavanoids", ylabel="color intensity")
    ax.set(xlim=(0, 5.5), ylim=(0, 14))
axes[0].legend(frameon=False)
axes[2].hist(list(closest.values()), bins=15, density=True, label=list(closest))
axes[2].set(title="distance to the closest training row", xlabel="standard deviations")
axes[2].legend(frameon=False)
figure.savefig("synthetic_rows.png", dpi=90)
