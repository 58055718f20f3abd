"""
===================================================================
Outlier detection: what if there are anomalies among training rows?
===================================================================

Nobody has clean data. Here a growing share of the training samples is malignant,
unknown to the detector, and fresh samples are ranked. With ``contamination="auto"``
every training row counts as normal, and the detector learns the anomalies too. With a
number, about that share of the rows is kept out of the training; the guess here is
always 0.1.
"""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import sem
from sklearn.datasets import load_breast_cancer
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split

from skvae import AutoencoderTransformer

X, y = load_breast_cancer(return_X_y=True)
SHARES = (0.0, 0.05, 0.1, 0.2)
SETTINGS = {"auto": "#d1495b", 0.1: "#3b75af"}
N_REPEATS = 5


def ranking(share, contamination, seed):
    """AUROC on fresh samples after training on 250, of which a share is malignant."""
    benign, fresh = train_test_split(X[y == 1], test_size=100, random_state=seed)
    malignant, odd = train_test_split(X[y == 0], test_size=100, random_state=seed)
    n_dirt = round(share * 250)
    train = np.vstack([benign[: 250 - n_dirt], malignant[:n_dirt]])
    detector = AutoencoderTransformer(
        contamination=contamination, random_state=seed
    ).fit(train)
    return roc_auc_score(
        np.arange(200) < 100, detector.score_samples(np.vstack([fresh, odd]))
    )


# %%
# The same training rows for both settings
# ----------------------------------------
auroc = {
    contamination: np.array(
        [
            [ranking(share, contamination, seed) for seed in range(N_REPEATS)]
            for share in SHARES
        ]
    )
    for contamination in SETTINGS
}
print(f"AUROC, mean of {N_REPEATS} splits")
print(f"{'malignant in training':<24}" + "".join(f"{share:>8.0%}" for share in SHARES))
for contamination, values in auroc.items():
    print(
        f"contamination={contamination!r:<10}"
        + "".join(f"{mean:>8.3f}" for mean in values.mean(axis=1))
    )

# %%
# The picture
# -----------
figure, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
for contamination, values in auroc.items():
    mean, error, color = (
        values.mean(axis=1),
        sem(values, axis=1),
        SETTINGS[contamination],
    )
    ax.fill_between(
        SHARES, mean - error, mean + error, color=color, alpha=0.15, linewidth=0
    )
    ax.plot(
        SHARES, mean, color=color, marker="o", label=f"contamination={contamination!r}"
    )
ax.set(
    title="Breast cancer: what dirt in the training rows costs",
    xlabel="share of malignant training samples",
)
ax.set(xticks=SHARES, ylabel="AUROC on fresh samples (band: standard error)")
ax.xaxis.set_major_formatter("{x:.0%}")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
figure.savefig("plot_dirty_training_data.png", dpi=110)
print("\nPicture: plot_dirty_training_data.png")
