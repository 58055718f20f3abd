"""
=====================================================================
Hyperparameter search: how do I stop bad settings after a few epochs?
=====================================================================

Optuna proposes settings of a VAE; a callback of scikit-learn (1.9 or newer) reports the
log-density of held-out rows after each epoch, and gives up a fit that falls behind the
others. The loss would not do: it is small where a model learns its rows by heart.
"""

import matplotlib.pyplot as plt
import optuna
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from skvae import VAETransformer

N_EPOCHS, N_TRIALS = 20, 20
optuna.logging.set_verbosity(optuna.logging.WARNING)


# %%
# The callback
# ------------
# An exception leaves a fit as any other error does; Optuna knows this one. To end a fit
# and keep its model, the callback would return True instead.
class Pruning:
    def __init__(self, trial, X_held_out):
        self.trial, self.X_held_out = trial, X_held_out

    def setup(self, estimator, context):
        pass

    def teardown(self, estimator, context):
        pass

    def on_fit_task_begin(self, estimator, context):
        pass

    def on_fit_task_end(self, estimator, context, *, fitted_estimator=None):
        if context.task_name == "epoch":
            self.trial.report(fitted_estimator.score(self.X_held_out), context.task_id)
            if self.trial.should_prune():
                raise optuna.TrialPruned


# %%
# The search
# ----------
# 569 rows of 30 columns. Log-densities are in the units of the columns.
train, rest = train_test_split(load_breast_cancer().data, random_state=0, test_size=0.4)
held_out, test = train_test_split(rest, random_state=0, test_size=0.5)


def model(**parameters):
    # Densities of codes and scores, and noise scales of rows that are set aside, are
    # estimated after training, and would be after each epoch that is reported.
    return VAETransformer(
        max_iter=N_EPOCHS,
        tol=1e3,
        n_draws=16,
        latent_density="normal",
        score_method="log_likelihood",
        calibration_fraction=0.0,
        random_state=0,
        **parameters,
    )


def objective(trial):
    parameters = {
        "n_components": trial.suggest_int("n_components", 2, 24),
        "learning_rate_init": trial.suggest_float(
            "learning_rate_init", 1e-4, 3e-2, log=True
        ),
        "dropout": trial.suggest_float("dropout", 0.0, 0.5),
        "hidden_layer_sizes": trial.suggest_categorical(
            "hidden_layer_sizes", [32, 64, 128]
        ),
    }
    return (
        model(**parameters)
        .set_callbacks(Pruning(trial, held_out))
        .fit(train)
        .score(held_out)
    )


study = optuna.create_study(
    direction="maximize",
    sampler=optuna.samplers.TPESampler(seed=0),
    pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=2),
)
study.optimize(objective, n_trials=N_TRIALS)
pruned = [
    trial for trial in study.trials if trial.state == optuna.trial.TrialState.PRUNED
]
n_epochs = sum(len(trial.intermediate_values) for trial in study.trials)
print(
    f"{len(pruned)} of {N_TRIALS} fits given up; {n_epochs} epochs instead of "
    f"{N_TRIALS * N_EPOCHS}"
)
print(
    "best:",
    {
        k: round(v, 4) if isinstance(v, float) else v
        for k, v in study.best_params.items()
    },
)
for label, parameters in (("defaults", {}), ("best", study.best_params)):
    print(
        f"log-density of test rows, {label}: "
        f"{model(**parameters).fit(train).score(test):.2f} nats"
    )

# %%
# What was given up
# -----------------
figure, axes = plt.subplots(figsize=(6.5, 4), layout="constrained")
for trial in study.trials:
    kept = trial.state == optuna.trial.TrialState.COMPLETE
    epochs = [epoch + 1 for epoch in trial.intermediate_values]
    axes.plot(
        epochs,
        list(trial.intermediate_values.values()),
        color="#3b75af" if kept else "#d1495b",
        alpha=0.8,
    )
    if not kept:
        axes.plot(
            epochs[-1],
            list(trial.intermediate_values.values())[-1],
            "x",
            color="#d1495b",
        )
low, high = study.best_value - 25, study.best_value + 2
axes.set(
    xlabel="epoch",
    ylabel="log-density of held-out rows, in nats",
    ylim=(low, high),
    title="Fits kept and given up",
)
axes.xaxis.get_major_locator().set_params(integer=True)
axes.spines[["top", "right"]].set_visible(False)
figure.savefig("pruning.png", dpi=110)
print("\nPicture: pruning.png")
