"""
=================================================================
Few labels: what are five labelled anomalies worth to a detector?
=================================================================

Handwritten digits: threes and nines are anomalies, the other digits are normal. The
detector trains without labels; then ``learn_anomalies`` gets a few threes, and rows
like them score lower. No nine has a label, and nines are still found.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.metrics import average_precision_score, roc_auc_score

from skvae import AutoencoderTransformer

X, digit = load_digits(return_X_y=True)
rng = np.random.default_rng(0)
normal = rng.permutation(X[(digit != 3) & (digit != 9)])
threes, nines = rng.permutation(X[digit == 3]), X[digit == 9]
train, fresh = normal[:1000], normal[1000:]

# %%
# Anomalies alone, as rows: no ``y``. A later call takes the place of an earlier one, so
# pass all that are known; a table without rows forgets them. In a pipeline it is
# ``pipe[-1].learn_anomalies(pipe[:-1].transform(X_known))``.
detector = AutoencoderTransformer(standardize=False, random_state=0).fit(train)
labels, found = [0, 1, 2, 5, 10, 20, 40], {"threes": [], "nines": []}
for n_labels in labels:
    detector.learn_anomalies(threes[:n_labels])
    for name, odd in {"threes": threes[40:], "nines": nines}.items():
        is_odd = np.repeat([0, 1], [len(fresh), len(odd)])
        scores = detector.score_samples(np.vstack([fresh, odd]))
        found[name].append(average_precision_score(is_odd, -scores))
    alarms = (detector.predict(fresh) == -1).mean()
    print(f"{n_labels:2d} labels: {alarms:.1%} of fresh normal rows are flagged")

# %%
# Choose parameters by labels that ``learn_anomalies`` has not seen, and mind the sign:
# a score is high for normal rows, so labels that are 1 for anomalies turn ROC AUC
# around. ``scoring="roc_auc"`` wants 1 for normal; ``skvae.metrics.anomaly_scorer`` has
# it right in a search, whatever the labels are.
print(f"sign trap: {roc_auc_score(is_odd, scores):.3f} for a good detector")
print(f"as meant:  {roc_auc_score(is_odd, -scores):.3f}")

# %%
figure, ax = plt.subplots(figsize=(7, 4), layout="constrained")
ax.plot(labels, found["threes"], "o-", label="threes, some labelled")
ax.plot(labels, found["nines"], "s--", label="nines, none labelled")
ax.set(xlabel="labelled threes", ylabel="average precision on other rows")
ax.legend(frameon=False)
figure.savefig("learn_anomalies.png", dpi=90)
