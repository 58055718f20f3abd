"""Paths through a latent space: tensors in and out."""

import torch
from torch import Tensor

__all__ = ["linear_path", "spherical_path"]


def linear_path(start: Tensor, end: Tensor, n_steps: int) -> Tensor:
    """Straight lines between codes.

    Parameters
    ----------
    start, end : Tensor of shape (n_pairs, n_components)
    n_steps : int
        Points, ends included.

    Returns
    -------
    path : Tensor of shape (n_pairs, n_steps, n_components)
    """
    t = torch.linspace(0.0, 1.0, n_steps, dtype=start.dtype, device=start.device).unsqueeze(-1)
    return torch.lerp(start.unsqueeze(1), end.unsqueeze(1), t)


def spherical_path(start: Tensor, end: Tensor, n_steps: int) -> Tensor:
    r"""Great-circle paths between codes, which keep the norm typical of a Gaussian.

    .. math:: z(t) = \frac{\sin((1 - t) \omega)}{\sin \omega} z_0 + \frac{\sin(t \omega)}{\sin \omega} z_1

    Parameters
    ----------
    start, end : Tensor of shape (n_pairs, n_components)
    n_steps : int
        Points, ends included.

    Returns
    -------
    path : Tensor of shape (n_pairs, n_steps, n_components)
        Linear where the codes are parallel, or one of them is zero.

    References
    ----------
    Shoemake (1985), "Animating rotation with quaternion curves", SIGGRAPH 19(3), section 3.3.
    """
    norms = start.norm(dim=-1) * end.norm(dim=-1)
    cosine = (start * end).sum(dim=-1) / norms.clamp_min(1e-12)
    angle = torch.where(norms > 1e-12, torch.arccos(cosine.clamp(-1.0, 1.0)), 0.0)[:, None, None]
    t = torch.linspace(0.0, 1.0, n_steps, dtype=start.dtype, device=start.device)[None, :, None]
    sine = torch.sin(angle)
    curved = (torch.sin((1.0 - t) * angle) * start[:, None] + torch.sin(t * angle) * end[:, None]) / sine
    return torch.where(sine.abs() < 1e-6, linear_path(start, end, n_steps), curved)
