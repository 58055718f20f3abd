"""
==========================================================
Which cells look unlike benign ones, and in what respect?
==========================================================

569 breast-cancer samples, 30 measurements each. An autoencoder is trained on benign samples only and never sees a
label. It then scores fresh samples, benign and malignant, and shows what it would have expected to see in the oddest
ones. At the end, its codes serve as features of a classifier, tuned like any other step of a pipeline.
"""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
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
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
benign, malignant = X[y == 1], X[y == 0]
train, fresh = train_test_split(benign, test_size=0.25, random_state=0)

detector = AutoencoderTransformer(random_state=0).fit(train)
scores = pd.Series(detector.score_samples(X), index=X.index)  # higher = more normal

unseen = np.r_[fresh.index, malignant.index]
auroc = roc_auc_score(y[unseen], scores[unseen])
alarms = pd.Series(detector.predict(X) == -1, index=X.index)
print(f"AUROC, fresh benign against malignant: {auroc:.3f}")
print(f"flagged at false_alarm_rate={detector.false_alarm_rate}: {alarms[fresh.index].mean():.0%} of fresh benign")
print(f"{'':>34}and {alarms[malignant.index].mean():.0%} of malignant samples")

# %%
# The oddest rows, and why
# ------------------------
# `explain` asks of each cell how much more normal its row would be if this cell held what the others imply. The
# contributions of a row sum to its score, so the lowest ones are to blame.
worst = scores[unseen].nsmallest(3).index
contributions, expected = detector.explain(X.loc[worst])
for row in worst:
    print(f"\nsample {row} ({'benign' if y[row] else 'malignant'}), score {scores[row]:.0f}:")
    for column in contributions.loc[row].nsmallest(3).index:
        print(f"  {column:<22}{X.loc[row, column]:>9.4g}, expected {expected.loc[row, column]:.4g}")

# %%
# Codes as features
# -----------------
pipeline = make_pipeline(AutoencoderTransformer(random_state=0), LogisticRegression(max_iter=1000))
search = GridSearchCV(pipeline, {"autoencodertransformer__n_components": [2, 6, 12]}, cv=3).fit(X, y)
print(f"\nLogisticRegression on codes, cross-validated accuracy: {search.best_score_:.3f}")
print(f"with n_components={search.best_params_['autoencodertransformer__n_components']}, chosen by GridSearchCV")

# %%
# The picture
# -----------
# Scores of anomalies reach far down, so the axis is linear near 0 and logarithmic beyond.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), width_ratios=[1.2, 1], layout="constrained")
edges = np.sinh(np.linspace(*np.arcsinh(scores[unseen].quantile([0, 1]) / 50), 45)) * 50
for rows, color, label in ((malignant, MALIGNANT, "malignant"), (fresh, BENIGN, "fresh benign")):
    left.hist(scores[rows.index], edges, color=color, alpha=0.75, label=f"{label} ({len(rows)})")
left.set_xscale("asinh", linear_width=50)
left.set_xticks([-100_000, -10_000, -1_000, -100, 0], ["-100,000", "-10,000", "-1,000", "-100", "0"])
left.axvline(detector.offset_, color="0.2", linestyle="--", linewidth=1.2)
left.annotate("flagged  ", (detector.offset_, 0.97), xycoords=("data", "axes fraction"), ha="right", va="top")
left.set(xlabel="score_samples, in nats", ylabel="samples", title=f"Trained on benign samples only: AUROC {auroc:.3f}")
left.legend(frameon=False, loc="upper left")

blame = contributions.loc[worst[0]].nsmallest(6)[::-1]
cells = [f"{c}\n{X.loc[worst[0], c]:.3g}, expected {expected.loc[worst[0], c]:.3g}" for c in blame.index]
right.barh(cells, blame / 1000, color=MALIGNANT, height=0.6)
right.set(title=f"Why sample {worst[0]}?", xlabel="contribution to its score, in 1,000 nats")
for axes in (left, right):
    axes.spines[["top", "right"]].set_visible(False)
figure.savefig("quickstart.png", dpi=110)
print("\nPicture: quickstart.png")
