"""
=========================================
Plotting: what can I look at after a fit?
=========================================

Five pictures of two models, in the form of scikit-learn's displays: how training went,
where rows lie in the latent space, what is made of them, how they score, and why one of
them is odd. An autoencoder and a variational autoencoder have seen benign breast-cancer
samples only, and look at fresh ones.
"""

import matplotlib.pyplot as plt
import pandas as pd
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from skvae import AutoencoderTransformer, VAETransformer
from skvae.display import (
    AnomalyScoreDisplay,
    ExplanationDisplay,
    LatentSpaceDisplay,
    LossCurveDisplay,
    ReconstructionDisplay,
)

# %%
# Two models of benign samples
# ----------------------------
X, y = load_breast_cancer(return_X_y=True, as_frame=True)
train, benign = train_test_split(X[y == 1], test_size=100, random_state=0)
fresh = pd.concat([benign, X[y == 0].sample(60, random_state=0)])
kind = ["benign"] * 100 + ["malignant"] * 60

detector = AutoencoderTransformer(early_stopping=True, random_state=0).fit(train)
vae = VAETransformer(random_state=0).fit(train)

# %%
# How training went, and where rows lie
# -------------------------------------
# The dotted line marks the epoch whose weights were kept. Of the latent space, the two
# components in which the codes vary most are shown.
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
LossCurveDisplay.from_estimator(detector, ax=left)
LatentSpaceDisplay.from_estimator(vae, fresh, y=kind, ax=right)
figure.savefig("displays_training.png", dpi=100)

# %%
# How rows score, and why
# -----------------------
# Scores far below the threshold are counted in the first bar. The right picture takes
# one row apart: the lowest contributions are the anomalous ones.
figure, (left, right) = plt.subplots(
    1, 2, figsize=(11, 4.5), width_ratios=[1.3, 1], layout="constrained"
)
scores = AnomalyScoreDisplay.from_estimator(detector, fresh, y=kind, ax=left)
ExplanationDisplay.from_estimator(
    detector, fresh, row=int(scores.scores.argmin()), max_columns=6, ax=right
)
figure.savefig("displays_scores.png", dpi=100)

# %%
# What is made of them
# --------------------
# Six benign rows above six malignant ones. The difference is what the autoencoder could
# not reconstruct.
some = pd.concat([benign[:6], fresh[-6:]])
rows = ReconstructionDisplay.from_estimator(detector, some)
rows.figure_.savefig("displays_rows.png", dpi=100)

print("expected below the threshold:", scores.expected_rate)
print("\nPictures: displays_training.png, displays_scores.png, displays_rows.png")
