"""
=======================================================================
Tuning: what are thirty labelled anomalies worth when I choose a model?
=======================================================================

Breast cancer: most training rows are benign, thirty malignant ones among them carry a
label. A search with the right scorer compares codes and scores on them. Malignant rows
that nobody labelled say whether the choice was good.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedKFold, train_test_split

from skvae import AutoencoderTransformer
from skvae.metrics import anomaly_scorer

X, y = load_breast_cancer(return_X_y=True)
is_anomaly = y == 0
train, test, y_train, y_test = train_test_split(
    X, is_anomaly, test_size=0.5, stratify=is_anomaly, random_state=0
)
few = ~y_train | (np.cumsum(y_train) <= 30)
train, y_train = train[few], y_train[few]

# %%
# Training ignores the labels, so ``contamination`` says that there are anomalies among
# its rows; the scorer uses them.
model = AutoencoderTransformer(contamination=0.1, max_iter=30, tol=1.0, random_state=0)
grid = {
    "n_components": [1, 4, 16],
    "score_method": ["residual", "joint", "reconstruction"],
}
folds = StratifiedKFold(3, shuffle=True, random_state=0)
search = GridSearchCV(model, grid, scoring=anomaly_scorer(), cv=folds).fit(
    train, y_train
)
print("chosen:", search.best_params_)
for name, chosen in {
    "as it comes": model.fit(train),
    "chosen": search.best_estimator_,
}.items():
    precision = average_precision_score(y_test, -chosen.score_samples(test))
    print(f"{name:<12} average precision on new rows: {precision:.3f}")

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
scores = search.cv_results_["mean_test_score"].reshape(len(grid["n_components"]), -1)
for method, column in zip(grid["score_method"], scores.T, strict=True):
    ax.plot(grid["n_components"], column, "o-", label=method)
ax.set_xscale("log", base=2)
ax.set_xticks(grid["n_components"], grid["n_components"])
ax.set(xlabel="n_components", ylabel="average precision on labelled rows")
ax.legend(frameon=False, title="score_method")
figure.savefig("tune_with_labels.png", dpi=90)
