"""Autoencoder and VAE as torch modules: networks plus a likelihood; encode, decode, loss, log-weights.

A module holds all its numbers in one flat parameter, so that the optimiser makes one call and a fitted model is one
array. `loss` is the differentiable definition of what is minimised.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from .._data.inputs import InputLayer
from .._densities.bounds import gaussian_kl, importance_weighted_bound
from .._densities.latent import LatentMixture, MixturePrior
from .._densities.mixture import DiagonalMixture
from .._support.numerics import WIDTH, Affine, observed, row_product
from ..likelihoods import Likelihood
from ..likelihoods.row_terms import with_row_terms
from .mlp import Parameters, SkipMLP
from .starts import LinearStart
from .workspace import PackedMLP, Workspace

__all__ = ["LOG_VARIANCE_RANGE", "AutoencoderModule", "Batch", "LatentModule", "VAEModule"]

# Wide enough for any posterior between e^-7 and e^3 prior scales; a bound keeps exp() finite.
LOG_VARIANCE_RANGE = (-14.0, 6.0)
_LOG_2PI = math.log(2.0 * math.pi)
_FILL_ROUNDS = 10
# Buffers for so many numbers of rows are held at once, and of a wide table for so many inputs, 8 MiB in float64.
_MAX_PROGRAMS, _MAX_CELLS = 16, 2**20
# Decoded at once where a row has several draws: they stay in the cache, and the memory is bounded.
_DRAWN_CELLS = 2**18


class Batch(NamedTuple):
    """What one step sees; with several networks every tensor has a leading dimension of them."""

    x: Tensor  # (n_rows, n_features), the target
    inputs: Tensor  # (n_rows, n_inputs), what the encoder sees, noise included
    weight: Tensor | None = None  # (n_rows,)
    mask: Tensor | None = None  # (n_rows, n_features), True where observed
    noise: Tensor | None = None  # (n_rows, n_draws * n_components), standard normal
    # Factors of the encoder's and the decoder's hidden layers, (n_rows, n_hidden): 0 or 1 / (1 - rate); none without.
    dropout: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ())
    shown: Tensor | None = None  # (n_rows, n_features), which cells other columns know, where a likelihood sees columns


class LatentModule(nn.Module, ABC):
    """What both models share: an encoder, a decoder, a likelihood, one flat parameter.

    Parameters
    ----------
    encoder, decoder : SkipMLP
    likelihood : Likelihood
    flat : Tensor of shape (n_parameters,), or None
        Encoder's, decoder's and the likelihood's free parameters in this order; None makes zeros.
    layer : InputLayer, or None
        What the encoder sees of scaled rows; None for the rows themselves.
    prior : MixturePrior, or None
        p(z), with a mixture for each network; N(0, I) if None. `set_prior` changes it.
    """

    def __init__(
        self,
        encoder: SkipMLP,
        decoder: SkipMLP,
        likelihood: Likelihood,
        flat: Tensor | None = None,
        layer: InputLayer | None = None,
        prior: MixturePrior | None = None,
    ) -> None:
        super().__init__()
        self.layer = InputLayer(encoder.n_inputs) if layer is None else layer
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood
        self._sizes = [encoder.n_parameters, decoder.n_parameters, encoder.n_networks * likelihood.n_free]
        self._programs: dict[tuple[int, int, Affine | None], tuple[Tensor, Tensor, list]] | None = None
        self._packed: dict[tuple[int, Affine | None], tuple[SkipMLP, PackedMLP, Tensor]] = {}
        self.flat = nn.Parameter(torch.zeros(sum(self._sizes)) if flat is None else flat)
        self.prior = prior

    @property
    def n_networks(self) -> int:
        """Networks side by side."""
        return self.encoder.n_networks

    @property
    def n_noise(self) -> int:
        """Standard normal numbers that a row needs per step."""
        return 0

    @property
    def n_components(self) -> int:
        """Size of the latent space."""
        return self.decoder.n_inputs

    @property
    def flops_per_row(self) -> float:
        """Floating-point operations of one forward pass of one row through one network: threads share the networks."""
        return self.encoder.flops_per_row + self.decoder.flops_per_row

    def parts(self, flat: Tensor | None = None) -> tuple[Parameters, Parameters, Tensor]:
        """Encoder's and decoder's parameters and the free ones, as views of ``flat`` (default: the module's own)."""
        encoder, decoder, free = (self.flat if flat is None else flat).split(self._sizes)
        lead = () if self.n_networks == 1 else (self.n_networks,)
        return self.encoder.views(encoder), self.decoder.views(decoder), free.view(*lead, -1)

    def network(self, index: int) -> "LatentModule":
        """One of the networks as a module of its own; the only one is the module itself."""
        if self.n_networks == 1:
            return self
        encoder, decoder, free = self.flat.detach().split(self._sizes)
        flat = torch.cat(
            [
                self.encoder.network(encoder, index),
                self.decoder.network(decoder, index),
                free.view(self.n_networks, -1)[index],
            ]
        )
        prior = None if self.prior is None else MixturePrior([self.prior.mixtures[index]], flat)
        return type(self)(_single(self.encoder), _single(self.decoder), self.likelihood, flat, self.layer, prior)

    def converted(self, dtype: torch.dtype) -> "LatentModule":
        """The same model in another precision; itself if nothing changes."""
        if self.flat.dtype == dtype:
            return self
        return self._with(self.flat.detach().to(dtype))

    def copied(self) -> "LatentModule":
        """The same model with parameters of its own."""
        return self._with(self.flat.detach().clone())

    def _with(self, flat: Tensor) -> "LatentModule":
        prior = None if self.prior is None else MixturePrior(self.prior.mixtures, flat)
        return type(self)(self.encoder, self.decoder, self.likelihood, flat, self.layer, prior)

    def set_prior(self, mixtures: Sequence[DiagonalMixture] | None) -> None:
        """Change p(z), as a training does that learns it: to a mixture for each network, or to N(0, I) by None."""
        self.prior = None if mixtures is None else MixturePrior(mixtures, self.flat)

    @torch.no_grad()
    def start(self, linear: LinearStart, generators: Sequence[torch.Generator]) -> None:
        """Set the module to a linear model, with hidden weights at random, one generator for each network."""
        alone = (_single(self.encoder), _single(self.decoder))
        flats = []
        for generator in generators:
            flat = [torch.zeros(net.n_parameters) for net in alone]
            for net, values in zip(alone, flat, strict=True):
                net.initialise(values, generator)
            flats.append([*flat, torch.tensor(self.likelihood.initial_free(), dtype=torch.float32)])
        self._start_linear(alone[0].views(flats[0][0]), alone[1].views(flats[0][1]), flats[0][2], linear)
        encoder, decoder, free = self.parts()
        for index, (first, second, third) in enumerate(flats):
            if index:
                self._start_linear(alone[0].views(first), alone[1].views(second), third, linear)
            for target, source in ((encoder, alone[0].views(first)), (decoder, alone[1].views(second))):
                _assign(target, source, index, single=self.n_networks == 1)
            (free if self.n_networks == 1 else free[index]).copy_(third)

    @abstractmethod
    def _start_linear(self, encoder: Parameters, decoder: Parameters, free: Tensor, linear: LinearStart) -> None:
        """Write a linear model into the parameters of one network."""

    @abstractmethod
    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Map encoder inputs (n_samples, n_inputs) to codes (n_samples, n_components)."""

    def encode(self, x: Tensor) -> Tensor:
        """Map scaled rows (n_samples, n_features), NaN where missing, to codes (n_samples, n_components)."""
        return self.encode_inputs(self.inputs(x))

    def inputs(self, x: Tensor) -> Tensor:
        """What the encoder sees of scaled rows.

        The encoder is not told of missing cells in a column that was complete in training, and takes the mean that
        stands in for them at its word: such cells are filled with the row's own reconstruction, again and again,
        before it sees them. Levels soon stay what they are, and with them the row.
        """
        mask = observed(x)
        if mask is None:
            return self.layer(x)
        # A cell whose absence the encoder is told of stays missing.
        kept = mask.clone()
        kept[..., list(self.layer.masked)] = True
        return self.layer(x if kept.all() else self._filled(x, kept, _FILL_ROUNDS))

    def _filled(self, x: Tensor, kept: Tensor, n_rounds: int) -> Tensor:
        """Rows whose cells outside ``kept`` hold their own reconstruction, so many times over."""
        outputs = self.decode(self.encode_inputs(self.layer(x)))
        filled = torch.where(kept, x, self.likelihood.mean(outputs, self.free()))
        if n_rounds == 1:
            return filled
        rows = (filled != x).logical_and_(~kept).any(dim=-1)
        if filled.ndim > 2 or self._programs is not None:  # buffers are of one number of rows
            return self._filled(filled, kept, n_rounds - 1) if rows.any() else filled
        moved = rows.nonzero().squeeze(1)
        if len(moved) > len(x) // 2:
            return self._filled(filled, kept, n_rounds - 1)
        if len(moved):
            moved = torch.cat([moved, moved[-1:].expand(-len(moved) % WIDTH)])
            filled[moved] = self._filled(filled[moved], kept[moved], n_rounds - 1)
        return filled

    def decode(self, z: Tensor, after: Affine | None = None) -> Tensor:
        """Map codes to the outputs that parametrise the likelihood, or to what a map makes of those."""
        return self._pass(1, z, after)

    def free(self) -> Tensor:
        """The likelihood's free parameters, of shape (n_free,) or (n_networks, n_free)."""
        free = self.flat[self._sizes[0] + self._sizes[1] :]
        return free if self.n_networks == 1 else free.view(self.n_networks, -1)

    def with_buffers(self) -> "LatentModule":
        """The same model for passes over many chunks of one size, without gradients; itself if it is for them.

        Its networks write to buffers of their own: a result lasts until the same network's next pass.
        """
        if self._programs is not None:
            return self
        twin = copy.copy(self)
        twin._programs, twin._packed = {}, {}
        return twin

    def _pass(self, which: int, x: Tensor, after: Affine | None = None, *, factors: Sequence[Tensor] = ()) -> Tensor:
        """Run the encoder (0) or the decoder (1), and a map of its outputs if there is one."""
        network = (self.encoder, self.decoder)[which]
        if self._programs is None or self.n_networks > 1 or factors:
            parameters = self.parts()
            outputs = network.forward(parameters[1] if which else parameters[0], x, factors)
            return outputs if after is None else row_product(outputs, after.weight) + after.bias
        if x.dim() > 2:
            return self._pass(which, x.flatten(0, -2), after).unflatten(0, x.shape[:-1])
        if (found := self._programs.get((which, x.shape[0], after))) is None:
            found = self._programs[which, x.shape[0], after] = self._program(self._programs, which, x.shape[0], after)
        inputs, outputs, calls = found
        inputs.copy_(x)
        for call in calls:
            call()
        return outputs

    def _program(
        self, held: dict, which: int, n_rows: int, after: Affine | None
    ) -> tuple[Tensor, Tensor, list[Callable[[], object]]]:
        """Inputs, outputs and calls of a pass over so many rows; those over other numbers make room if they must."""
        if (which, after) not in self._packed:
            network, flat = (self.encoder, self.decoder)[which], self.flat.detach().split(self._sizes)[which]
            if after is not None:
                network, flat = network.followed_by(after, flat)
            layout = PackedMLP(network)
            self._packed[which, after] = network, layout, layout.pack(flat, flat.new_zeros(layout.n_parameters))
        network, layout, packed = self._packed[which, after]
        # A model that is kept sees many numbers of rows.
        if len(held) >= _MAX_PROGRAMS or sum({key[1] for key in held}) * self.encoder.n_inputs > _MAX_CELLS:
            for key in [key for key in held if key[1] != n_rows]:
                del held[key]
        workspace = Workspace(layout, packed, n_rows)
        ends = workspace.inputs[..., : network.n_inputs], workspace.outputs[..., : network.n_outputs]
        return (*ends, workspace.forward_calls)

    def reconstruct(self, x: Tensor) -> Tensor:
        """Expected value of each cell of a scaled row, given the row's code."""
        outputs = self.decode(self.encode(x))
        return self.likelihood.mean(outputs, self.free())

    def forward(self, x: Tensor) -> Tensor:
        """Same as `reconstruct`."""
        return self.reconstruct(x)

    @abstractmethod
    def loss(self, batch: Batch, kl_weight: float = 1.0) -> Tensor:
        """What is minimised: the loss summed over the rows of a batch, in nats; one number for each network."""


def _single(network: SkipMLP) -> SkipMLP:
    return SkipMLP(network.n_inputs, network.n_outputs, network.hidden, network.activation)


def _assign(target: Parameters, source: Parameters, index: int, *, single: bool) -> None:
    for to, value in zip(
        (*target.weights, target.skip, target.all_biases),
        (*source.weights, source.skip, source.all_biases),
        strict=True,
    ):
        (to if single else to[index]).copy_(value)


def _start_decoder(decoder: Parameters, module: LatentModule, linear: LinearStart) -> None:
    """Write a linear model of the rows into the decoder's linear path, through the likelihood's link."""
    mean, loadings = (torch.from_numpy(part).float() for part in module.layer.to_cells(linear.mean, linear.decoder))
    bias, weight = module.likelihood.linear_outputs(mean, loadings)
    decoder.biases[-1].copy_(bias)
    decoder.skip.copy_(weight)


def _weighted_sum(values: Tensor, weight: Tensor | None) -> Tensor:
    """Sum over rows, with weights if there are any."""
    return (values if weight is None else values * weight).sum(dim=-1)


class AutoencoderModule(LatentModule):
    """Encoder and decoder trained to reproduce a row through its code."""

    def _start_linear(self, encoder: Parameters, decoder: Parameters, free: Tensor, linear: LinearStart) -> None:
        encode, mean, bias = (torch.from_numpy(part).float() for part in (linear.encoder, linear.mean, linear.bias))
        encoder.skip.copy_(encode)
        encoder.biases[-1].copy_(bias if len(bias) else -mean @ encode)
        _start_decoder(decoder, self, linear)

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Map encoder inputs (n_samples, n_inputs) to codes (n_samples, n_components)."""
        return self._pass(0, inputs)

    def loss(self, batch: Batch, kl_weight: float = 1.0) -> Tensor:
        """Negative log-likelihood of the rows given their codes, summed over the rows, in nats."""
        z = self._pass(0, batch.inputs, factors=batch.dropout[0])
        outputs = self._pass(1, z, factors=batch.dropout[1])
        log_prob = self.likelihood.log_prob(batch.x, outputs, self.parts()[2], batch.mask)
        return -_weighted_sum(log_prob.sum(dim=-1), batch.weight)


class VAEModule(LatentModule):
    r"""Encoder to a Gaussian posterior, decoder to a likelihood.

    .. math:: \mathrm{ELBO}(x) = E_{q(z \mid x)} \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, N(0, I))

    With a mixture as ``prior`` the divergence is estimated by the draw, the posterior's entropy exact.
    The encoder's outputs are [mean | log-variance] of the posterior.

    References
    ----------
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, equation 10 and appendix B.
    """

    @property
    def n_noise(self) -> int:
        """Standard normal numbers that a row needs per step."""
        return self.n_components

    def _start_linear(self, encoder: Parameters, decoder: Parameters, free: Tensor, linear: LinearStart) -> None:
        encode, _, mean, log_variance, noise, bias = (torch.from_numpy(part).float() for part in linear)
        n_components = encode.shape[1]
        encoder.skip[:, :n_components].copy_(encode)
        encoder.biases[-1].copy_(torch.cat([bias if len(bias) else -mean @ encode, log_variance]))
        _start_decoder(decoder, self, linear)
        free.copy_(self.likelihood.linear_free(noise))

    def posterior(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance of q(z given x) of scaled rows, each of shape (n_samples, n_components).

        A row without any value has the prior for its posterior.
        """
        return _prior_where_empty(*self._posterior(self.inputs(x)), observed(x))

    def _posterior(self, inputs: Tensor, factors: Sequence[Tensor] = ()) -> tuple[Tensor, Tensor]:
        mean, log_variance = self._pass(0, inputs, factors=factors).chunk(2, dim=-1)
        return mean, log_variance.clamp(*LOG_VARIANCE_RANGE)

    def encode_inputs(self, inputs: Tensor) -> Tensor:
        """Posterior mean of each row."""
        return self._posterior(inputs)[0]

    def encode(self, x: Tensor) -> Tensor:
        """Posterior mean of scaled rows, NaN where missing."""
        return self.posterior(x)[0]

    def loss(self, batch: Batch, kl_weight: float = 1.0) -> Tensor:
        """Negative ELBO of one draw of the posterior, summed over the rows, in nats.

        Of several draws it is the negative importance-weighted bound, of which the KL is a part: it has no weight.

        References
        ----------
        Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, equation 8.
        """
        if batch.noise is not None and batch.noise.shape[-1] > self.n_components:
            return -_weighted_sum(self._bound(batch, batch.noise), batch.weight)
        mean, log_variance = self._posterior(batch.inputs, batch.dropout[0])
        z = mean if batch.noise is None else mean + torch.exp(0.5 * log_variance) * batch.noise
        outputs = self._pass(1, z, factors=batch.dropout[1])
        likelihood = self.likelihood.told(batch.shown)
        log_prob = likelihood.log_prob(batch.x, outputs, self.parts()[2], batch.mask).sum(dim=-1)
        return _weighted_sum(kl_weight * self._kl(mean, log_variance, z) - log_prob, batch.weight)

    def _bound(self, batch: Batch, noise: Tensor) -> Tensor:
        """Importance-weighted bound of each row."""
        draws = noise.unflatten(-1, (-1, self.n_components)).movedim(-2, 0)
        if draws.dim() == 3 and self.n_networks > 1:  # the networks share the draws
            draws = draws.unsqueeze(1)
        return importance_weighted_bound(
            self.log_weights(batch.x, batch.inputs, draws, batch.mask, self.prior, dropout=batch.dropout)
        )

    def _kl(self, mean: Tensor, log_variance: Tensor, z: Tensor) -> Tensor:
        if self.prior is None:
            return gaussian_kl(mean, log_variance)
        return -0.5 * (log_variance + 1.0 + _LOG_2PI).sum(dim=-1) - self.prior.log_prob(z)

    def draw(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """One draw of the posterior of each scaled row, of shape (n_samples, n_components)."""
        return self.draws(x, 1, generator).squeeze(-2)

    def draws(self, x: Tensor, n_draws: int, generator: torch.Generator) -> Tensor:
        """Draws of the posterior of each scaled row, of shape (n_samples, n_draws, n_components)."""
        mean, log_variance = (part.unsqueeze(-2) for part in self.posterior(x))
        noise = mean.new_empty((*mean.shape[:-2], n_draws, mean.shape[-1])).normal_(generator=generator)
        return mean + torch.exp(0.5 * log_variance) * noise

    def log_weights(
        self,
        x: Tensor,
        inputs: Tensor,
        noise: Tensor,
        mask: Tensor | None = None,
        prior: LatentMixture | MixturePrior | None = None,
        *,
        dropout: tuple[Sequence[Tensor], Sequence[Tensor]] = ((), ()),
    ) -> Tensor:
        r"""Log importance weights of posterior draws.

        .. math:: \log w_k = \log p(x \mid z_k) + \log p(z_k) - \log q(z_k \mid x)

        Parameters
        ----------
        x : Tensor of shape (n_samples, n_features)
        inputs : Tensor of shape (n_samples, n_inputs)
        noise : Tensor of shape (n_draws, 1, n_components)
            Standard normal numbers, the same for every row.
        mask : Tensor of shape (n_samples, n_features), or None
        prior : LatentMixture, MixturePrior or None
            p(z); N(0, I) if None.
        dropout : pair of sequences of Tensor
            As in `Batch`, the same for all draws of a row.

        Returns
        -------
        log_weights : Tensor of shape (n_draws, n_samples)
            In nats; their mean estimates the ELBO, their logmeanexp the importance-weighted bound.
        """
        mean, log_variance = _prior_where_empty(*self._posterior(inputs, dropout[0]), mask)
        scale, free, likelihood = torch.exp(0.5 * log_variance), self.free(), self.likelihood
        if not torch.is_grad_enabled():  # sums of gradients over parts of the draws would be rounded otherwise
            likelihood = with_row_terms(likelihood, x, free, mask)

        def of(noise: Tensor) -> Tensor:
            z = mean + scale * noise
            outputs = self._pass(1, z, factors=dropout[1])
            log_prob = likelihood.row_log_prob(x, outputs, free, mask)
            # log p(z) - log q(z): the normalising constants of two Gaussians cancel but for the posterior's scale.
            if prior is None:
                log_ratio = 0.5 * (noise.square() - z.square() + log_variance).sum(dim=-1)
            else:
                entropy = 0.5 * ((noise.square() + _LOG_2PI).sum(dim=-1) + log_variance.sum(dim=-1))
                log_ratio = prior.log_prob(z) + entropy
            # The density of no cell is one, whatever the prior.
            return log_prob + (log_ratio if mask is None else log_ratio * mask.any(dim=-1))

        cells = max(1, mean[..., 0].numel() * max((*self.decoder.hidden, self.decoder.n_outputs)))
        return torch.cat([of(part) for part in noise.split(max(1, _DRAWN_CELLS // cells))])


def _prior_where_empty(mean: Tensor, log_variance: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    if mask is None:
        return mean, log_variance
    some = mask.any(dim=-1, keepdim=True)
    return mean * some, log_variance * some
