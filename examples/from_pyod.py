"""
===============================================================
Coming from PyOD: what is the same call, and what comes out?
===============================================================

A script for PyOD's AutoEncoder, line by line as it is written here. Where PyOD is
installed its own lines run beside ours, and both are compared on labelled rows; where
it is not, ours run alone.
"""

from importlib.util import find_spec

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score

from skvae import AutoencoderTransformer

X, y = load_breast_cancer(return_X_y=True)
is_anomaly = y == 0
train, test = X[~is_anomaly][:250], np.vstack([X[~is_anomaly][250:], X[is_anomaly]])
truth = np.repeat([0, 1], [len(test) - is_anomaly.sum(), is_anomaly.sum()])

# %%
# Here, clean training rows are what ``contamination="auto"`` means, and the share of
# alarms among fresh normal rows is asked for by its name.
ours = AutoencoderTransformer(false_alarm_rate=0.1, random_state=0).fit(train)
found = {"skvae": (-ours.score_samples(test), ours.predict(test) == -1)}

# %%
# In PyOD the share is one of the training rows. Higher scores are more anomalous there,
# and its labels are 0 and 1.
if find_spec("pyod"):
    from pyod.models.auto_encoder import AutoEncoder

    theirs = AutoEncoder(contamination=0.1, random_state=0, verbose=0).fit(train)
    found["PyOD"] = (theirs.decision_function(test), theirs.predict(test) == 1)
else:
    print("PyOD is not installed: its lines were left out.")

for name, (scores, flagged) in found.items():
    rates = [flagged[truth == label].mean() for label in (0, 1)]
    print(
        f"{name:<6} AUROC {roc_auc_score(truth, scores):.3f}, "
        f"flagged: {rates[0]:.0%} of benign rows, {rates[1]:.0%} of malignant ones"
    )

# %%
# What has no line in PyOD: why a row is an alarm, and how unusual it is among normal
# ones.
print(ours.explain(test[-1:]).to_frame(top=2).round(2).to_string(index=False))
print(f"p-value {ours.p_values(test[-1:])[0]:.3f}")

# %%
figure, axes = plt.subplots(1, len(found), figsize=(9, 3.5), layout="constrained")
for ax, (name, (scores, _)) in zip(np.atleast_1d(axes), found.items(), strict=True):
    ranks = np.argsort(np.argsort(scores))
    ax.hist([ranks[truth == 0], ranks[truth == 1]], bins=20, stacked=True)
    ax.set(title=name, xlabel="rank, most anomalous last")
    ax.legend(["benign", "malignant"], frameon=False)
figure.savefig("from_pyod.png", dpi=90)
