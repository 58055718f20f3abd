"""
=====================================================================
Explanations: which columns does a detector use, over all its alarms?
=====================================================================

`explain` says what is wrong with one row. What matters to the detector as a whole is a
question for scikit-learn's permutation importance: how much worse are anomalies ranked
where a column's values are shuffled? A pipeline, a search and other tools of
scikit-learn take the detector for what it is, a scorer included.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.inspection import permutation_importance

from skvae import AutoencoderTransformer
from skvae.metrics import anomaly_scorer

X, y = load_breast_cancer(return_X_y=True, as_frame=True)
is_malignant = y == 0
train = X[~is_malignant][:250]
test = X.drop(train.index)
detector = AutoencoderTransformer(random_state=0).fit(train)

# %%
# With labels: the loss of AUROC. Columns that repeat each other come first, as a
# shuffled one contradicts the others in every row, beside which real anomalies pale. So
# this tells what a broken sensor would do to the detector.
found = permutation_importance(
    detector,
    test,
    is_malignant[test.index],
    scoring=anomaly_scorer("roc_auc"),
    n_repeats=3,
    random_state=0,
)

# %%
# Without labels: the share of each column in what separates alarms from normal rows. It
# tells what the alarms are about.
alarms = test[detector.predict(test) == -1][:40]
table = detector.explain(alarms).to_frame(top=5)
share = table.groupby("column")["share"].sum() / len(alarms)

order = np.argsort(found.importances_mean)[::-1][:6]
print("AUROC lost when shuffled:")
for column in order:
    mean, spread = found.importances_mean[column], found.importances_std[column]
    print(f"  {X.columns[column]:<24} {mean:.4f} +- {spread:.4f}")
print(f"\nmean share in {len(alarms)} alarms:")
print(share.nlargest(6).round(2).to_string())

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
left.boxplot(found.importances[order[::-1]].T, orientation="horizontal")
left.set_yticklabels(X.columns[order[::-1]])
left.set_xlabel("AUROC lost when shuffled")
share.nlargest(6)[::-1].plot.barh(ax=right, xlabel="mean share in an alarm", ylabel="")
figure.savefig("permutation_importance.png", dpi=90)
