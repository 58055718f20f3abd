"""What turns gradients into steps: Adam over one flat vector, and the course of its learning rate."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

__all__ = ["Adam", "one_cycle"]


class Adam:
    """Adam with decoupled weight decay over one flat vector, in one call.

    Parameters
    ----------
    flat : Tensor of shape (n_parameters,)
    blocks : callable, or None
        Cuts a vector like ``flat`` into the tensors of several networks, each with a leading dimension of them.
    gradient : Tensor of the shape of ``flat``, or None
        Where the summed gradient comes; one of its own if None.

    References
    ----------
    Kingma & Ba (2015), https://arxiv.org/abs/1412.6980; Loshchilov & Hutter (2019), https://arxiv.org/abs/1711.05101.
    """

    beta1, beta2, eps = 0.9, 0.99, 1e-8

    def __init__(
        self,
        flat: Tensor,
        blocks: Callable[[Tensor], list[Tensor]] | None = None,
        *,
        gradient: Tensor | None = None,
    ) -> None:
        self.flat = flat
        self.gradient = gradient = torch.zeros_like(flat) if gradient is None else gradient
        self._blocks = [] if blocks is None else [block.flatten(1) for block in blocks(gradient)]
        self.first, self.second = torch.zeros_like(flat), torch.zeros_like(flat)
        self.n_steps = torch.zeros((), dtype=torch.float32, device=flat.device)
        self._one = torch.ones_like(self.n_steps)
        self._numbers: dict[float, Tensor] = {}
        self._norm, self._scale = flat.new_zeros(()), torch.ones_like(self.n_steps)
        fused = getattr(torch, "_fused_adamw_", None) if flat.device.type in ("cpu", "cuda") else None
        self._fused = fused and partial(
            fused, [flat], [gradient], [self.first], [self.second], [], [self.n_steps],
            beta1=self.beta1, beta2=self.beta2, eps=self.eps, amsgrad=False, maximize=False,
        )  # fmt: skip

    def step(self, learning_rate: float, weight_decay: float, n_rows: float, max_norm: float) -> None:
        """Apply the summed gradient of ``n_rows`` rows.

        The gradient is divided by the rows, and further where its norm exceeds ``max_norm``, in each network apart.
        """
        scale = self._number(n_rows)
        if max_norm < math.inf and self._blocks:
            self._shorten(n_rows * max_norm)
        elif max_norm < math.inf:
            norm = torch.linalg.vector_norm(self.gradient, out=self._norm)
            scale = torch.maximum(scale, norm.div_(self._number(max_norm)), out=self._scale)
        self.n_steps.add_(self._one)
        if self._fused is not None:
            self._fused(lr=learning_rate, weight_decay=weight_decay, grad_scale=scale)
            return
        gradient = self.gradient.div_(scale)
        self.first.lerp_(gradient, 1.0 - self.beta1)
        self.second.mul_(self.beta2).addcmul_(gradient, gradient, value=1.0 - self.beta2)
        correction1 = 1.0 - self.beta1**self.n_steps
        correction2 = 1.0 - self.beta2**self.n_steps
        self.flat.mul_(1.0 - learning_rate * weight_decay)
        self.flat.sub_(learning_rate * (self.first / correction1) / ((self.second / correction2).sqrt() + self.eps))

    def _number(self, value: float) -> Tensor:
        """A number as a tensor, made once: torch would wrap it at each step, at the price of the operation itself."""
        number = self._numbers.get(value)
        if number is None:
            number = self._numbers[value] = torch.full_like(self.n_steps, value)
        return number

    def _shorten(self, max_norm: float) -> None:
        """Bound each network's gradient by itself, so that one that explodes does not hold up the others."""
        squares = torch.stack([block.square().sum(dim=1) for block in self._blocks]).sum(dim=0)
        factor = (max_norm / squares.sqrt()).clamp_(max=1.0).unsqueeze(1)
        for block in self._blocks:
            block.mul_(factor)

    def forget(self) -> None:
        """Drop the moments, as after a step that went wrong."""
        for moment in (self.first, self.second, self.n_steps):
            moment.zero_()

    def state(self) -> dict[str, Tensor]:
        """Moments and step count."""
        return {"first": self.first, "second": self.second, "n_steps": self.n_steps}

    def load(self, state: dict[str, Tensor]) -> None:
        """Resume from `state`."""
        for name, value in state.items():
            getattr(self, name).copy_(value)


def one_cycle(step: int, n_steps: int) -> float:
    """Factor of the learning rate in a step: a linear rise over a tenth of the steps, a cosine down to zero.

    Parameters
    ----------
    step : int
        Steps that are done.
    n_steps : int
        Of the whole training.

    Returns
    -------
    factor : float

    References
    ----------
    Smith & Topin (2019), https://arxiv.org/abs/1708.07120.
    """
    rise = max(1, n_steps // 10)
    if step < rise:
        return (step + 1) / rise
    fall = max(1, n_steps - rise)
    return 0.5 * (1.0 + math.cos(math.pi * (step - rise + 1) / (fall + 1)))
