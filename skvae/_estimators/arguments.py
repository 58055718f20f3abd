"""Names that other libraries give to our parameters, so that a constructor can suggest ours."""

from collections.abc import Callable
from difflib import get_close_matches
from functools import wraps
from inspect import signature
from typing import Any

__all__ = ["names_for_others"]

# From PyOD, Keras, scikit-learn's other estimators and the literature.
_OURS = {
    "n_components": "bottleneck code_size embedding_dim encoding_dim latent_dim latent_dims latent_size n_latent z_dim",
    "hidden_layer_sizes": "decoder_neuron_list decoder_neurons encoder_neuron_list encoder_neurons hidden_dim"
    " hidden_dims hidden_layers hidden_neuron_list hidden_neurons hidden_size hidden_sizes hidden_units layer_sizes"
    " layers n_hidden n_layers num_layers units",
    "activation": "activation_fn activation_function hidden_activation hidden_activation_name",
    "likelihood": "criterion criterion_name distribution loss loss_fn loss_function reconstruction_loss",
    "categorical_features": "cat_features categorical_columns discrete_columns embedding_columns",
    "standardize": "normalize preprocessing scale_data scaler standardise",
    "contamination": "anomaly_fraction nu outlier_fraction outliers_fraction",
    "false_alarm_rate": "false_positive_rate fpr threshold",
    "score_method": "metric scoring scoring_method",
    "noise": "noise_level noise_scale noise_std sigma",
    "alpha": "decay l2 l2_regularizer l2_weight regularization weight_decay",
    "batch_size": "batch batchsize minibatch_size",
    "learning_rate_init": "eta learning_rate lr step_size",
    "max_iter": "epoch epoch_num epochs max_epochs n_epoch n_epochs n_iter num_epochs",
    "max_time": "max_seconds time_budget time_limit timeout",
    "tol": "min_delta tolerance",
    "n_iter_no_change": "early_stopping_rounds patience",
    "early_stopping": "early_stop",
    "validation_fraction": "val_split validation_size validation_split",
    "random_state": "random_seed seed",
    "n_networks": "ensemble_size n_ensemble n_estimators n_models",
    "n_jobs": "n_threads n_workers num_threads num_workers workers",
    "device": "accelerator cuda gpu use_cuda use_gpu",
    "beta": "beta_kl gamma kl_weight",
    "kl_warmup": "annealing kl_annealing warmup",
    "dropout": "drop_rate dropout_rate",
    "n_draws": "n_particles num_samples",
    "latent_density": "prior",
}
_NAMES = {theirs: ours for ours, words in _OURS.items() for theirs in words.split()}


def names_for_others(init: Callable[..., None]) -> Callable[..., None]:
    """Let a constructor suggest our name for an argument that it does not know; its signature stays.

    Parameters
    ----------
    init : callable
        ``__init__`` of an estimator.

    Returns
    -------
    init : callable
    """
    known = list(signature(init).parameters)

    @wraps(init)
    def advising(self: Any, *args: Any, **given: Any) -> None:
        unknown = [name for name in given if name not in known]
        if unknown:
            told = "; ".join(_told(name, known) for name in unknown)
            raise TypeError(f"{type(self).__name__} has no such parameter: {told}.")
        init(self, *args, **given)

    return advising


def _told(name: str, known: list[str]) -> str:
    ours = _NAMES.get(name.lower())
    close = [ours] if ours in known else get_close_matches(name, known, 1)
    return f"{name!r}, use {close[0]!r}" if close else f"{name!r}"
