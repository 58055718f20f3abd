"""
=========================================
Monitoring: how do I watch a model train?
=========================================

With a callback of scikit-learn (1.9 or newer). This one writes each epoch's loss, and
the log-density of rows that the model has not seen, to event files that TensorBoard
shows. It is attached to the VAE at the end of a pipeline, and a grid search fits that
pipeline; the callback still sees every epoch of every fit. The search has a callback of
its own, scikit-learn's progress bar.
"""

import tempfile
from itertools import count

import matplotlib.pyplot as plt
from sklearn.callback import ProgressBar
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tensorboardX import (
    SummaryWriter,
)  # or torch.utils.tensorboard, where TensorBoard itself is installed

from skvae import VAETransformer


# %%
# The callback
# ------------
# scikit-learn calls it at the beginning and at the end of each task of a fit: of the
# fit itself and of its epochs. An argument named ``fitted_estimator`` asks for a model
# that is usable as it stands. For MLflow, the last line would be
# ``mlflow.log_metric(f"{self.run}/{name}", value, epoch)``.
class TensorBoardLog:
    def __init__(self, folder, X_held_out):
        self.writer, self.X_held_out = SummaryWriter(folder), X_held_out
        self.number, self.runs = count(), {}

    def setup(self, estimator, context):
        self.run = f"{estimator.n_components} components, fit {next(self.number)}"

    def teardown(self, estimator, context):
        self.writer.flush()

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name != "epoch":
            return
        epoch, model = context.task_id, fitted_estimator
        self.runs.setdefault(self.run, []).append(model.score(self.X_held_out))
        for name, value in (
            ("loss", model.loss_curve_[-1]),
            ("held out", self.runs[self.run][-1]),
        ):
            self.writer.add_scalar(f"{self.run}/{name}", value, epoch)


# %%
# A search, watched
# -----------------
train, held_out = train_test_split(load_breast_cancer().data, random_state=0)
scaler = StandardScaler().fit(train)
with tempfile.TemporaryDirectory() as folder:
    log = TensorBoardLog(folder, scaler.transform(held_out))
    # Without what each epoch that is logged would estimate anew beside the network:
    # densities, a threshold, noise scales of rows that are set aside.
    parts = {"latent_density": "normal", "score_method": "log_likelihood"}
    parts |= {"calibration_fraction": 0.0}
    vae = VAETransformer(max_iter=20, tol=1e3, n_draws=8, **parts, random_state=0)
    vae = vae.set_callbacks(log)
    pipeline = make_pipeline(StandardScaler(), vae)
    grid = {"vaetransformer__n_components": [2, 6, 18]}
    search = GridSearchCV(pipeline, grid, cv=2).set_callbacks(
        ProgressBar(max_propagation_depth=0)
    )
    search.fit(train)
    log.writer.close()
    print(f"\nTo look at it while it runs: tensorboard --logdir {folder}")
for run, values in log.runs.items():
    print(
        f"{run:<22} {len(values)} epochs, held-out log-density {values[0]:.1f} "
        f"-> {values[-1]:.1f} nats"
    )

# %%
# The same curves
# ---------------
figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
colors = {"2": "#d1495b", "6": "#edae49", "18": "#3b75af"}
for run, values in log.runs.items():
    size = run.split()[0]
    known = axes.get_legend_handles_labels()[1]
    label = f"{size} components"
    axes.plot(
        range(1, len(values) + 1),
        values,
        color=colors[size],
        label=None if label in known else label,
    )
axes.set(
    xlabel="epoch",
    ylabel="log-density of held-out rows, in nats",
    title="Every fit of a grid search",
)
axes.xaxis.get_major_locator().set_params(integer=True)
axes.spines[["top", "right"]].set_visible(False)
axes.legend(frameon=False)
figure.savefig("watch_training.png", dpi=110)
print("\nPicture: watch_training.png")
