"""
============================================================================
Anomaly detection: which cells look unlike benign ones, and in what respect?
============================================================================

569 breast-cancer samples, 30 measurements each. An autoencoder is trained on benign
samples only and never sees a label. It then scores fresh samples, benign and malignant,
and shows what it would have expected to see in the oddest ones. At the end, its codes
serve as features of a classifier, tuned like any other step of a pipeline.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline

from skvae import AutoencoderTransformer

BENIGN, MALIGNANT = "#3b75af", "#d1495b"

# %%
# Train on benign samples, score fresh ones
# -----------------------------------------
X, y = load_breast_cancer(return_X_y=True)
columns = load_breast_cancer().feature_names
malignant = X[y == 0]
train, benign = train_test_split(X[y == 1], test_size=0.25, random_state=0)
fresh, is_benign = (
    np.vstack([benign, malignant]),
    np.arange(len(benign) + len(malignant)) < len(benign),
)

detector = AutoencoderTransformer(random_state=0).fit(train)
scores = detector.score_samples(fresh)  # higher = more normal
flagged = detector.predict(fresh) == -1
auroc = roc_auc_score(is_benign, scores)
print(f"AUROC, fresh benign against malignant: {auroc:.3f}")
print(
    f"flagged at false_alarm_rate={detector.false_alarm_rate}: "
    f"{flagged[is_benign].mean():.0%} of fresh benign"
)
print(f"{'':>34}and {flagged[~is_benign].mean():.0%} of malignant samples")

# %%
# The oddest rows, and why
# ------------------------
# `explain` asks of each value how much more normal its row would be if it were what the
# others imply. The contributions of a row sum to its score, so the lowest ones mark the
# anomalous values. A row may also be odd as a whole, with no single value to point at;
# of the 20 oddest, these are the three in which the lowest three values carry most of
# the score.
oddest = np.argsort(scores)[:20]
contributions, expected = detector.explain(fresh[oddest])
carried = np.sort(contributions, axis=1)[:, :3].sum(axis=1) / scores[oddest]
shown = np.argsort(-carried)[:3]
for i in shown:
    row, kind = oddest[i], "benign" if is_benign[oddest[i]] else "malignant"
    print(
        f"\nsample {row} ({kind}), score {scores[row]:.0f}, {carried[i]:.0%} of "
        "it from three cells:"
    )
    for column in np.argsort(contributions[i])[:3]:
        print(
            f"  {columns[column]:<22}{fresh[row, column]:>9.3g}, expected "
            f"{expected[i, column]:.3g}"
        )

# %%
# Codes as features
# -----------------
pipeline = make_pipeline(
    AutoencoderTransformer(random_state=0), LogisticRegression(max_iter=1000)
)
search = GridSearchCV(
    pipeline, {"autoencodertransformer__n_components": [2, 6, 12]}, cv=3
).fit(X, y)
print(
    f"\nLogisticRegression on codes, cross-validated accuracy: {search.best_score_:.3f}"
)
chosen = search.best_params_["autoencodertransformer__n_components"]
print(f"with n_components={chosen}, chosen by GridSearchCV")

# %%
# The picture
# -----------
# Scores of anomalies reach far down, so the axis is linear near 0 and logarithmic
# beyond.
figure, (left, right) = plt.subplots(
    1, 2, figsize=(10, 4), width_ratios=[1.2, 1], layout="constrained"
)
edges = 50 * np.sinh(
    np.linspace(np.arcsinh(scores.min() / 50), np.arcsinh(scores.max() / 50), 45)
)
for chosen, color, label in (
    (~is_benign, MALIGNANT, "malignant"),
    (is_benign, BENIGN, "fresh benign"),
):
    left.hist(
        scores[chosen],
        edges,
        color=color,
        alpha=0.75,
        label=f"{label} ({chosen.sum()})",
    )
left.set_xscale("asinh", linear_width=50)
left.set_xticks(
    [-100_000, -10_000, -1_000, -100, 0], ["-100,000", "-10,000", "-1,000", "-100", "0"]
)
left.axvline(detector.offset_, color="0.2", linestyle="--", linewidth=1.2)
left.annotate(
    "flagged  ",
    (detector.offset_, 0.97),
    xycoords=("data", "axes fraction"),
    ha="right",
    va="top",
)
left.set(
    xlabel="score_samples, in nats",
    ylabel="samples",
    title=f"Trained on benign samples only: AUROC {auroc:.3f}",
)
left.legend(frameon=False, loc="upper left")

first, sample = shown[0], fresh[oddest[shown[0]]]
top = np.argsort(contributions[first])[5::-1]
cells = [
    f"{columns[i]}\n{sample[i]:.3g}, expected {expected[first, i]:.3g}" for i in top
]
right.barh(cells, contributions[first, top], color=MALIGNANT, height=0.6)
right.set(
    title=f"Why sample {oddest[first]}?",
    xlabel=f"contribution to its score of {scores[oddest[first]]:.0f} nats",
)
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("quickstart.png", dpi=110)
print("\nPicture: quickstart.png")
