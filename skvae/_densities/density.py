"""What a fitted density is: named tensors that turn into arrays and back."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

__all__ = ["Density"]


@dataclass(frozen=True)
class Density(ABC):
    """A fitted density: named tensors that turn into arrays and back, so that models pickle without torch.

    Attributes
    ----------
    shapes : dict of str to str
        A letter for each axis of a tensor, by which saved ones are checked: "d" stands for the columns, "e" for twice
        as many, "c" for the components of the code. A tensor without an entry may have any shape.
    """

    shapes: ClassVar[dict[str, str]] = {}

    @abstractmethod
    def n_features(self) -> int:
        """Width of the rows that it scores."""

    def state(self) -> dict[str, Any]:
        """Arrays by name."""
        return {f.name: getattr(self, f.name).cpu().numpy() for f in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> Self:
        """Inverse of `state`."""
        return cls(**{name: torch.from_numpy(np.array(value)) for name, value in state.items()})

    def to(self, like: Tensor) -> Self:
        """The same numbers in the precision and on the device of ``like``; itself if nothing changes."""
        first = next(iter(vars(self).values()))
        if first.dtype == like.dtype and first.device == like.device:
            return self
        return type(self)(*(getattr(self, f.name).to(like) for f in fields(self)))
