"""The other libraries' autoencoders, as they come and stripped to the same layers ("matched")."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from sklearn.neural_network import MLPRegressor
from torch import nn

HIDDEN = {30: (64, 32), 784: (512, 256)}
N_COMPONENTS = {30: 8, 784: 32}


def widths(n_features: int) -> list[int]:
    """All layers of the autoencoder, input and output included."""
    hidden = HIDDEN[n_features]
    return [n_features, *hidden, N_COMPONENTS[n_features], *hidden[::-1], n_features]


def skvae_model(name: str, n_features: int, batch_size: int, n_epochs: int, **options: Any) -> Any:
    """Our estimator with the peers' layers unless ``options`` say otherwise; every row trains, as in the peers."""
    import skvae

    options = {
        "n_components": N_COMPONENTS[n_features],
        "hidden_layer_sizes": HIDDEN[n_features],
        "activation": "relu",
        "batch_size": batch_size,
        "max_iter": n_epochs,
        "noise": 0.0,
        "calibration_fraction": 0.0,
        "random_state": 0,
    } | options
    return getattr(skvae, name)(**options)


def pyod_model(name: str, n_features: int, batch_size: int, n_epochs: int, *, matched: bool) -> Any:
    """PyOD's AutoEncoder or VAE; ``matched`` without batch norm, dropout, weight decay and preprocessing."""
    from pyod.models.auto_encoder import AutoEncoder
    from pyod.models.vae import VAE

    hidden, n_components = HIDDEN[n_features], N_COMPONENTS[n_features]
    common: dict[str, Any] = {"epoch_num": n_epochs, "batch_size": batch_size, "verbose": 0}
    if matched:
        common |= {"batch_norm": False, "dropout_rate": 0.0, "preprocessing": False}
        common |= {"optimizer_params": {"weight_decay": 0.0}}
    if name == "AutoEncoder":
        return AutoEncoder(hidden_neuron_list=[*hidden, n_components], **common)
    return VAE(
        encoder_neuron_list=list(hidden), decoder_neuron_list=list(hidden[::-1]), latent_dim=n_components, **common
    )


def network(n_features: int) -> nn.Sequential:
    """The same layers as PyOD's matched network, its ReLU after the code included."""
    sizes = widths(n_features)
    layers = [part for a, b in zip(sizes[:-2], sizes[1:-1], strict=True) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(sizes[-2], sizes[-1]))


def skorch_fit(X: np.ndarray, batch_size: int, n_epochs: int) -> None:
    """Skorch's regressor on the rows themselves, without its validation split."""
    from skorch import NeuralNetRegressor

    net = NeuralNetRegressor(
        network(X.shape[1]), max_epochs=n_epochs, batch_size=batch_size, train_split=None, verbose=0,
        optimizer=torch.optim.Adam, lr=1e-3, iterator_train__shuffle=True,
    )  # fmt: skip
    net.fit(X, X)


def mlp_fit(X: np.ndarray, batch_size: int, n_epochs: int) -> None:
    """scikit-learn's regressor on the rows themselves."""
    model = MLPRegressor(
        hidden_layer_sizes=tuple(widths(X.shape[1])[1:-1]), alpha=0.0, batch_size=batch_size, max_iter=n_epochs,
        tol=0.0, n_iter_no_change=n_epochs, random_state=0,
    )  # fmt: skip
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, X)


def loader_fit(X: np.ndarray, batch_size: int, n_epochs: int) -> None:
    """The loop that tutorials teach: DataLoader, autograd, Adam."""
    rows = torch.utils.data.TensorDataset(torch.from_numpy(X))
    loader = torch.utils.data.DataLoader(rows, batch_size=batch_size, shuffle=True)
    net, loss = network(X.shape[1]), nn.MSELoss()
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-3)
    for _ in range(n_epochs):
        for (x,) in loader:
            optimiser.zero_grad()
            loss(net(x), x).backward()
            optimiser.step()


def others(X: np.ndarray, batch_size: int, n_epochs: int) -> dict[str, Callable[[], Any]]:
    """Every peer's fit on the same work."""
    n_features = X.shape[1]
    pyod = {
        f"pyod {name} {'matched' if matched else 'as it comes'}": (
            lambda name=name, matched=matched: pyod_model(name, n_features, batch_size, n_epochs, matched=matched).fit(
                X
            )
        )
        for name in ("AutoEncoder", "VAE")
        for matched in (True, False)
    }
    return pyod | {
        "skorch": lambda: skorch_fit(X, batch_size, n_epochs),
        "MLPRegressor": lambda: mlp_fit(X, batch_size, n_epochs),
        "DataLoader loop": lambda: loader_fit(X, batch_size, n_epochs),
    }
