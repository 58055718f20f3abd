"""Pictures of rows: where they lie, and what the model makes of them."""

import math
from typing import Any

import numpy as np

from .._support.drawing import (
    MAX_CLASSES,
    bare,
    class_colors,
    column_names,
    dot_size,
    held_in_frame,
    last_step,
    matrix,
    name_columns,
    new_axes,
    numbered_dots,
    options,
)

__all__ = ["LatentSpaceDisplay", "ReconstructionDisplay"]


class LatentSpaceDisplay:
    """Where rows lie in the latent space: two components of their codes.

    Parameters
    ----------
    codes : array-like of shape (n_samples, n_components)
        Codes of the rows, in latent units.
    y : array-like of shape (n_samples,), default=None
        Labels that colour the dots: a legend for up to 20 classes, a colour bar for other numbers.
    components : "auto" or tuple of two int, default="auto"
        The components to show; "auto" takes the two in which the codes vary most.

    Attributes
    ----------
    ax_ : matplotlib Axes
    figure_ : matplotlib Figure
    components_ : tuple of int
        The components shown; a single one is drawn as a histogram.

    Examples
    --------
    >>> import numpy as np
    >>> from skvae import VAETransformer
    >>> from skvae.display import LatentSpaceDisplay
    >>> X = np.random.default_rng(0).normal(size=(200, 5))
    >>> model = VAETransformer(2, random_state=0).fit(X)
    >>> display = LatentSpaceDisplay.from_estimator(model, X, y=X[:, 0] > 0, components=(0, 1))
    >>> display.components_
    (0, 1)
    """

    def __init__(self, codes, *, y=None, components="auto"):
        self.codes = codes
        self.y = y
        self.components = components

    @classmethod
    def from_estimator(cls, estimator, X, *, y=None, components="auto", ax=None, scatter_kwargs=None):
        """Encode rows and draw their codes.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a pipeline that ends in one.
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,), default=None
        components : "auto" or tuple of two int, default="auto"
        ax : matplotlib Axes, default=None
        scatter_kwargs : dict, default=None
            Passed to ``Axes.scatter``, or to ``Axes.hist`` for a single component.

        Returns
        -------
        display : LatentSpaceDisplay
        """
        display = cls(np.asarray(estimator.transform(X)), y=y, components=components)
        return display.plot(ax, scatter_kwargs=scatter_kwargs)

    def plot(self, ax=None, *, scatter_kwargs=None):
        """Draw the codes.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
        scatter_kwargs : dict, default=None
            Passed to ``Axes.scatter``, or to ``Axes.hist`` for a single component.

        Returns
        -------
        display : LatentSpaceDisplay

        Raises
        ------
        ValueError
            If there are no such components.
        """
        codes = matrix(self.codes)
        self.components_ = self._chosen(codes)
        shown, n_far = held_in_frame(codes[:, self.components_])
        self.ax_ = ax = new_axes(ax, type(self).__name__)
        self.figure_ = ax.figure
        if self.y is not None and not self._is_categorical():
            self._draw_continuous(ax, shown, scatter_kwargs)
        else:
            self._draw_classes(ax, shown, scatter_kwargs)
        note = f" ({n_far} far row{'s' if n_far > 1 else ''} at the edge of the frame)" if n_far else ""
        ax.set(xlabel=f"component {self.components_[0]}{note}", ylabel="rows")
        if len(self.components_) == 2:
            ax.set_ylabel(f"component {self.components_[1]}")
        bare(ax)
        return self

    def _chosen(self, codes: np.ndarray) -> tuple[int, ...]:
        n_components = codes.shape[1]
        if isinstance(self.components, str) and self.components == "auto":
            most = np.argsort(-codes.var(axis=0), kind="stable")[:2]
            return tuple(sorted(int(index) for index in most))
        chosen = tuple(self.components)
        if len(chosen) != 2 or not all(0 <= index < n_components for index in chosen):
            raise ValueError(
                f"components must be 'auto' or two numbers from 0 to {n_components - 1}, but {self.components!r} came."
            )
        return chosen

    def _is_categorical(self) -> bool:
        y = np.asarray(self.y)
        return y.dtype.kind not in "fc" and len(np.unique(y)) <= MAX_CLASSES or y.dtype.kind in "OSUTb"

    def _draw_classes(self, ax: Any, shown: np.ndarray, given: dict[str, Any] | None) -> None:
        y = np.zeros(len(shown)) if self.y is None else np.asarray(self.y)
        labels = np.unique(y)
        colors = class_colors(len(labels))
        for index, label in enumerate(labels):
            part = shown[y == label]
            look = {"color": colors[index], "label": None if self.y is None else str(label)}
            if part.shape[1] == 1:
                edges = np.histogram_bin_edges(shown[:, 0], bins=40)
                ax.hist(part[:, 0], **options(look | {"bins": edges, "alpha": 0.6}, given))
            else:
                ax.scatter(*part.T, **options(look | {"s": dot_size(len(shown)), "linewidth": 0}, given))
        if self.y is not None:
            ax.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1), markerscale=2)

    def _draw_continuous(self, ax: Any, shown: np.ndarray, given: dict[str, Any] | None) -> None:
        height = shown[:, 1] if shown.shape[1] == 2 else np.asarray(self.y)
        dots = ax.scatter(shown[:, 0], height, **options(numbered_dots(self.y), given))
        ax.figure.colorbar(dots, ax=ax, label="y")


class ReconstructionDisplay:
    """Rows or images, what the model makes of them, and the difference.

    Parameters
    ----------
    X : array-like of shape (n_samples, n_features)
        Rows, in the user's units.
    X_hat : array-like of shape (n_samples, n_features)
        Their reconstructions, in the same units.
    image_shape : tuple of two int, default=None
        Height and width, if a row is a grey image; None draws rows as the lines of a heat map.
    scale : array-like of shape (n_features,), default=None
        Standard deviation of each column, in the user's units: the unit of a heat map's colours.
    mean : array-like of shape (n_features,), default=None
        Mean of each column, in the user's units: the middle of a heat map's colours.
    feature_names : list of str, default=None

    Attributes
    ----------
    ax_ : matplotlib Axes
        The axes that were divided.
    axes_ : ndarray of matplotlib Axes
        Of shape (3, n_samples) for images and (3,) for a heat map: input, output, difference.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from skvae import AutoencoderTransformer
    >>> from skvae.display import ReconstructionDisplay
    >>> X, _ = load_digits(return_X_y=True)
    >>> model = AutoencoderTransformer(8, random_state=0).fit(X)
    >>> display = ReconstructionDisplay.from_estimator(model, X[:5], image_shape=(8, 8))
    >>> display.axes_.shape
    (3, 5)
    """

    def __init__(self, X, X_hat, *, image_shape=None, scale=None, mean=None, feature_names=None):
        self.X = X
        self.X_hat = X_hat
        self.image_shape = image_shape
        self.scale = scale
        self.mean = mean
        self.feature_names = feature_names

    @classmethod
    def from_estimator(cls, estimator, X, *, image_shape=None, ax=None, image_kwargs=None):
        """Reconstruct rows and draw them.

        Parameters
        ----------
        estimator : estimator
            A fitted model, or a pipeline that ends in one; the picture is in the units of its input.
        X : array-like of shape (n_samples, n_features)
            A few rows.
        image_shape : tuple of two int, default=None
        ax : matplotlib Axes, default=None
        image_kwargs : dict, default=None
            Passed to ``Axes.imshow`` for input and output.

        Returns
        -------
        display : ReconstructionDisplay
        """
        values = matrix(X)
        X_hat = matrix(estimator.inverse_transform(estimator.transform(X)))
        # Behind a scaler the model's own units are not those of the picture.
        alone = last_step(estimator) is estimator
        scaling = {"scale": np.asarray(estimator.scale_), "mean": np.asarray(estimator.mean_)} if alone else {}
        names = column_names(X, values.shape[1])
        display = cls(values, X_hat, image_shape=image_shape, feature_names=names, **scaling)
        return display.plot(ax, image_kwargs=image_kwargs)

    def plot(self, ax=None, *, image_kwargs=None):
        """Draw input, output and difference.

        Parameters
        ----------
        ax : matplotlib Axes, default=None
            Axes whose place is divided.
        image_kwargs : dict, default=None
            Passed to ``Axes.imshow`` for input and output.

        Returns
        -------
        display : ReconstructionDisplay

        Raises
        ------
        ValueError
            If a row does not fill an image of ``image_shape``, or if ``ax`` cannot be divided.
        """
        X, X_hat = matrix(self.X), matrix(self.X_hat)
        if self.image_shape is not None and math.prod(self.image_shape) != X.shape[1]:
            raise ValueError(
                f"image_shape={tuple(self.image_shape)} holds {math.prod(self.image_shape)} pixels, but a row of X has "
                f"{X.shape[1]} columns. Give the height and the width of the image."
            )
        size = (1.2 * len(X) + 1, 4.2) if self.image_shape is not None else (10.0, 2.0 + 0.25 * len(X))
        self.ax_ = ax = new_axes(ax, type(self).__name__, (min(size[0], 16.0), min(size[1], 12.0)))
        self.figure_ = ax.figure
        if ax.get_subplotspec() is None:
            raise ValueError("ax must come from plt.subplots or add_subplot, so that its place can be divided.")
        ax.set_axis_off()
        if self.image_shape is not None:
            self._draw_images(ax, X, X_hat, image_kwargs)
        else:
            self._draw_rows(ax, X, X_hat, image_kwargs)
        return self

    def _draw_images(self, ax: Any, X: np.ndarray, X_hat: np.ndarray, given: dict[str, Any] | None) -> None:
        grid = ax.get_subplotspec().subgridspec(3, len(X), wspace=0.05, hspace=0.05)
        self.axes_ = grid.subplots(squeeze=False)
        look = options({"cmap": "gray_r", "vmin": X.min(), "vmax": X.max()}, given)
        limit = max(float(np.abs(X - X_hat).max()), np.finfo(float).tiny)
        difference = {"cmap": "RdBu_r", "vmin": -limit, "vmax": limit}
        for row, (images, how) in enumerate(((X, look), (X_hat, look), (X - X_hat, difference))):
            for axes, image in zip(self.axes_[row], images, strict=True):
                shown = axes.imshow(image.reshape(self.image_shape), **how)
                axes.set(xticks=[], yticks=[])
            self.axes_[row, 0].set_ylabel(("input", "output", "difference")[row])
        self.figure_.colorbar(shown, ax=self.axes_[2].tolist(), shrink=0.9)

    def _draw_rows(self, ax: Any, X: np.ndarray, X_hat: np.ndarray, given: dict[str, Any] | None) -> None:
        self.axes_ = ax.get_subplotspec().subgridspec(1, 3).subplots(squeeze=False)[0]
        mean = X.mean(axis=0) if self.mean is None else np.asarray(self.mean)
        scale = X.std(axis=0) if self.scale is None else np.asarray(self.scale)
        scale = np.where(scale > 0, scale, 1.0)
        parts = ((X - mean) / scale, (X_hat - mean) / scale, (X - X_hat) / scale)
        # Beyond three standard deviations a cell is odd enough; the colours are needed below.
        look = {"cmap": "RdBu_r", "vmin": -3.0, "vmax": 3.0, "aspect": "auto", "interpolation": "nearest"}
        for axes, part, title in zip(self.axes_, parts, ("input", "output", "difference"), strict=True):
            shown = axes.imshow(part, **(look if title == "difference" else options(look, given)))
            axes.set(title=title, yticks=[])
            name_columns(axes, X.shape[1], self.feature_names)
        self.axes_[0].set_ylabel(f"{len(X)} rows")
        self.figure_.colorbar(shown, ax=self.axes_.tolist(), label="standard deviations", extend="both")
