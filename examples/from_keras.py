"""
=================================================================
Coming from Keras: the tutorials' fraud detector, in fewer lines
=================================================================

Tutorials train an autoencoder in Keras on the normal card payments, take the mean
squared error of each payment's reconstruction, and flag what lies above a threshold
that was chosen by eye. The steps are the same here; the scaler, the layers, the loop
and the threshold are parameters, or have automatic values. Payments are simulated: 28
components as of the well-known table of card payments, an amount, and 1 % of frauds.
"""

import matplotlib.pyplot as plt
import numpy as np
from sklearn.metrics import average_precision_score, confusion_matrix
from sklearn.model_selection import train_test_split

from skvae import AutoencoderTransformer
from skvae.display import AnomalyScoreDisplay, LossCurveDisplay

rng = np.random.default_rng(0)
n_normal, n_frauds = 12_000, 120
habits = rng.normal(size=(n_normal + n_frauds, 6))
X = np.tanh(habits @ rng.normal(size=(6, 28))) + 0.3 * rng.normal(
    size=(len(habits), 28)
)
amount = np.exp(3 + habits[:, 0] + 0.5 * rng.normal(size=len(habits)))
# A fraud imitates some of the components, and draws the others from somebody else.
for row in range(n_normal, len(X)):
    swapped = rng.choice(28, 10, replace=False)
    X[row, swapped] = X[rng.integers(n_normal), swapped]
X = np.column_stack([X, amount])
y = np.repeat([0, 1], [n_normal, n_frauds])
train, test, y_train, y_test = train_test_split(X, y, stratify=y, random_state=0)

# %%
# In Keras: StandardScaler; Dense(14, "tanh"), Dense(7, "relu"), Dense(14, "tanh"),
# Dense(29); compile("adam", "mean_squared_error"); fit(X, X, epochs=100, batch_size=32,
# validation_split=0.1) with EarlyStopping and ModelCheckpoint. Here:
model = AutoencoderTransformer(
    n_components=7,
    hidden_layer_sizes=(14,),
    early_stopping=True,
    false_alarm_rate=0.01,  # instead of a threshold that looks good in the picture
    random_state=0,
).fit(train[y_train == 0])

# In Keras: np.mean((X - model.predict(X)) ** 2, axis=1), higher = more anomalous. Here
# scores are log-densities, higher = more normal:
error = np.square((test - model.reconstruct(test)) / train.std(axis=0)).mean(axis=1)
for name, score in {
    "squared error": error,
    "score_samples": -model.score_samples(test),
}.items():
    print(f"average precision by {name}: {average_precision_score(y_test, score):.3f}")

print(confusion_matrix(y_test, model.predict(test) == -1))
print(model.explain(test[y_test == 1][:1]).to_frame(top=3).round(2).to_string())

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
LossCurveDisplay.from_estimator(model, ax=left)
AnomalyScoreDisplay.from_estimator(model, test, y=y_test, ax=right)
figure.savefig("from_keras.png", dpi=90)
