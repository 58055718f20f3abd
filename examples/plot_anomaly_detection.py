"""
===================================================
Anomaly detection: how many of my alarms are false?
===================================================

A detector that has seen the digits 0 to 4 watches a stream into which 5 to 9 are mixed.
A score ranks the stream, but when is it low enough to raise an alarm? There are two
promises to choose from, both made with images that were held out of training: `predict`
flags a chosen share of the *normal* images; p-values with a false discovery rate bound
the share of the *alarms* that is false, on average over streams.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import false_discovery_control
from sklearn.datasets import load_digits
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skvae import AutoencoderTransformer

NORMAL, FOREIGN = "#3b75af", "#d1495b"

# %%
# A stream of 180 known and 40 foreign digits
# -------------------------------------------
X, y = load_digits(return_X_y=True)
X = X / 6  # one unit for all pixels, about their common standard deviation
train, known = train_test_split(X[y < 5], test_size=180, random_state=0)
foreign = np.random.default_rng(0).permutation(X[y >= 5])[:40]
stream, is_foreign = np.vstack([known, foreign]), np.arange(220) >= 180

# %%
# Scores, threshold, p-values
# ---------------------------
# The pixels share one unit, hence ``standardize=False``. The more rows calibrate, the
# smaller a p-value can be.
detector = AutoencoderTransformer(
    standardize=False, calibration_fraction=0.4, random_state=0
).fit(train)
scores = detector.score_samples(stream)
print(f"AUROC {roc_auc_score(is_foreign, -scores):.3f}")


def report(promise, flagged):
    """Count the alarms of a rule."""
    false, found = np.sum(flagged & ~is_foreign), np.sum(flagged & is_foreign)
    print(
        f"{promise:<32}{found} of 40 foreign digits found, {false} of "
        f"{false + found} alarms false"
    )


flagged = detector.predict(stream) == -1
report("5 % of the normal rows flagged:", flagged)
p_values = detector.p_values(stream)
discovered = false_discovery_control(p_values) <= 0.2
report("at most 20 % of alarms false:", discovered)

# %%
# Which pixels are anomalous?
# ---------------------------
# `explain` splits the score over the columns, and says which value each would need for
# the row to look normal.
worst = np.argsort(scores)[:5]
contributions, expected = detector.explain(stream[worst])

# %%
# The picture
# -----------
figure = plt.figure(figsize=(10, 7), layout="constrained")
top, bottom = figure.subfigures(2, 1, height_ratios=[1, 1.15])
left, right = top.subplots(1, 2)
edges = np.linspace(scores.min(), scores.max(), 40)
left.hist(
    scores[is_foreign], edges, color=FOREIGN, alpha=0.75, label="foreign (5 to 9)"
)
left.hist(scores[~is_foreign], edges, color=NORMAL, alpha=0.75, label="known (0 to 4)")
left.axvline(
    detector.offset_,
    color="0.2",
    linestyle="--",
    linewidth=1.2,
    label="threshold of predict",
)
left.set(title="Scores", xlabel="score_samples, in nats", ylabel="images")
left.legend(frameon=False, loc="upper left")

order = np.argsort(p_values, kind="stable")
rank = np.arange(1, len(order) + 1)
shown = rank <= 80
colors = np.where(is_foreign[order], FOREIGN, NORMAL)
right.scatter(rank[shown], p_values[order][shown], c=colors[shown], s=14)
right.plot(
    rank[shown],
    0.2 * rank[shown] / len(rank),
    color="0.2",
    linestyle="--",
    linewidth=1.2,
)
right.annotate("0.2 x rank / 220", (80, 0.2 * 80 / 220), va="bottom", ha="right")
right.axvspan(0.5, discovered.sum() + 0.5, color="0.93", zorder=0)
right.set(
    title=f"The {discovered.sum()} alarms of the false discovery rate",
    xlabel="rank of the p-value",
    ylabel="p-value",
)

grid = bottom.subplots(3, len(worst))
for column, (seen, blame, repaired) in enumerate(
    zip(stream[worst], contributions, expected, strict=True)
):
    limit = np.abs(blame).max()
    grid[0, column].imshow(seen.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16 / 6)
    grid[1, column].imshow(blame.reshape(8, 8), cmap="RdBu", vmin=-limit, vmax=limit)
    grid[2, column].imshow(repaired.reshape(8, 8), cmap="gray_r", vmin=0, vmax=16 / 6)
for axes, label in zip(
    grid, ("seen", "contribution\n(red: anomalous)", "expected"), strict=True
):
    axes[0].set_ylabel(label, rotation=0, ha="right", va="center")
for ax in grid.flat:
    ax.set(xticks=[], yticks=[])
bottom.suptitle("The five lowest scores")
for ax in (left, right):
    ax.spines[["top", "right"]].set_visible(False)
figure.savefig("plot_anomaly_detection.png", dpi=100)
print("\nPicture: plot_anomaly_detection.png")
