"""The training steps: by hand in buffers that are made once, and by autograd for whatever those decline.

What a step minimises is defined by `LatentModule.loss`; the tests hold each step to it.
"""

import math
from typing import cast

import torch
from torch import Tensor

from .._densities.latent import MixturePrior
from .._networks.modules import LOG_VARIANCE_RANGE, AutoencoderModule, Batch, VAEModule
from .._networks.workspace import Workspace
from ..likelihoods.likelihood import Buffers
from .engine import Engine, Step, StepEntry
from .native import NATIVE

__all__ = ["STEPS", "AutogradStep"]

_LOG_2PI = math.log(2.0 * math.pi)
_hardtanh_backward = torch.ops.aten.hardtanh_backward.grad_input


class _Likelihoods:
    """Loss and gradient of the decoder's outputs, for one batch size; the loss lasts until the next call."""

    def __init__(self, engine: Engine, decoder: Workspace) -> None:
        self._likelihood = likelihood = engine.module.likelihood
        self._free, self._d_free = engine.parts(engine.values)[2], engine.parts(engine.gradient)[2]
        width = likelihood.n_outputs
        self._outputs, self._d_outputs = decoder.outputs[..., :width], decoder.d_outputs[..., :width]
        self._loss = decoder.outputs.new_zeros(decoder.outputs.shape[:-2])
        buffers = Buffers(decoder.outputs, self._free, decoder.d_outputs, self._d_free, self._loss)
        self._complete = likelihood.gradient_in(buffers)

    def __call__(self, batch: Batch) -> Tensor:
        if self._complete is not None and batch.weight is None and batch.mask is None:
            self._complete(batch.x)
            return self._loss
        loss, _, d_free = self._likelihood.told(batch.shown).loss_gradient(
            batch.x, self._outputs, self._free, batch.weight, batch.mask, out=self._d_outputs
        )
        if self._likelihood.n_free:
            self._d_free.copy_(d_free)
        return loss


def _workspaces(engine: Engine, n_rows: int, *, joined: bool) -> tuple[Workspace, Workspace]:
    """Encoder and decoder; ``joined`` if the encoder's outputs are the codes."""
    values, gradients = engine.parts(engine.values), engine.parts(engine.gradient)
    decoder = Workspace(engine.decoder, values[1], n_rows, gradients[1], dropout=engine.dropout, d_inputs=True)
    encoder = Workspace(
        engine.encoder,
        values[0],
        n_rows,
        gradients[0],
        outputs=decoder.inputs if joined else None,
        d_outputs=decoder.d_inputs if joined else None,
        dropout=engine.dropout,
    )
    return encoder, decoder


class _AutoencoderStep(Step):
    def __init__(self, engine: Engine, n_rows: int) -> None:
        encoder, decoder = _workspaces(engine, n_rows, joined=True)
        self._inputs = encoder.inputs[..., : engine.module.encoder.n_inputs]
        self._factors = (encoder.factors, decoder.factors)
        self._forward = encoder.forward_calls + decoder.forward_calls
        self._likelihood = _Likelihoods(engine, decoder)
        self._backward = decoder.backward_calls + encoder.backward_calls

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        self._inputs.copy_(batch.inputs)
        if batch.dropout[0]:
            _copy_factors(self._factors, batch)
        for call in self._forward:
            call()
        loss = self._likelihood(batch)
        for call in self._backward:
            call()
        return loss


def _copy_factors(factors: tuple[list[Tensor], list[Tensor]], batch: Batch) -> None:
    for to, source in zip((*factors[0], *factors[1]), (*batch.dropout[0], *batch.dropout[1]), strict=True):
        to.copy_(source)


class _Posterior:
    """The encoder's pass: mean, log-variance and scale of each row's posterior, and their derivatives."""

    def __init__(self, engine: Engine, encoder: Workspace) -> None:
        n = engine.module.n_components
        self._inputs = encoder.inputs[..., : engine.module.encoder.n_inputs]
        self._forward, self._backward = encoder.forward_calls, encoder.backward_calls
        self.mean, self._raw_log_variance = encoder.outputs[..., :n], encoder.outputs[..., n : 2 * n]
        self.d_mean, self.d_log_variance = encoder.d_outputs[..., :n], encoder.d_outputs[..., n : 2 * n]
        self.log_variance, self.scale = (
            torch.empty_like(self.mean, memory_format=torch.contiguous_format) for _ in range(2)
        )
        # torch computes powers of two faster than powers of e.
        self._binary_half = self.scale.new_tensor(0.5 / math.log(2.0))

    def forward(self, inputs: Tensor) -> None:
        """From the encoder's inputs to the posterior."""
        self._inputs.copy_(inputs)
        for call in self._forward:
            call()
        torch.clamp(self._raw_log_variance, *LOG_VARIANCE_RANGE, out=self.log_variance)
        torch.mul(self.log_variance, self._binary_half, out=self.scale).exp2_()

    def backward(self) -> None:
        """From the derivatives by mean and log-variance to the encoder's; clamped log-variances pass none on."""
        d = self.d_log_variance
        # dL/da of log sigma^2 = clamp(a): dL/dlog sigma^2 within the range, 0 beyond.
        _hardtanh_backward(d, self._raw_log_variance, *LOG_VARIANCE_RANGE, grad_input=d)
        for call in self._backward:
            call()


class _VAEStep(Step):
    r"""The negative ELBO of one draw of the posterior, for rows of weight w and a KL of weight beta.

    .. math:: L = \sum_i w_i (-\log p(x_i \mid z_i) + \beta \, \mathrm{KL}_i), \quad z_i = \mu_i + \sigma_i \epsilon_i

    References
    ----------
    Kingma & Welling (2014), https://arxiv.org/abs/1312.6114, equation 10 and appendix B.
    """

    def __init__(self, engine: Engine, n_rows: int) -> None:
        encoder, decoder = _workspaces(engine, n_rows, joined=False)
        self._factors = (encoder.factors, decoder.factors)
        self._decoder, self._module = decoder, engine.module
        self._posterior = _Posterior(engine, encoder)
        self._likelihood = _Likelihoods(engine, decoder)
        n = engine.module.n_components
        self._z, self._d_z = decoder.inputs[..., :n], decoder.d_inputs[..., :n]
        self._spread, self._kl_cells = (torch.empty_like(self._posterior.scale) for _ in range(2))
        # Numbers as tensors: torch would wrap a Python float at each call, at the price of the operation itself.
        self._zero, self._minus_half = self._spread.new_tensor([0.0, -0.5])

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        if batch.dropout[0]:
            _copy_factors(self._factors, batch)
        posterior, spread = self._posterior, self._spread
        posterior.forward(batch.inputs)
        torch.mul(posterior.scale, self._zero if batch.noise is None else batch.noise, out=spread)  # sigma epsilon
        torch.add(posterior.mean, spread, out=self._z)
        for call in self._decoder.forward_calls:
            call()
        loss = self._likelihood(batch)
        for call in self._decoder.backward_calls:  # d_z = -w dlog p(x|z)/dz: dL/dz without the KL's part
            call()
        prior = self._module.prior
        kl = self._kl_gradient(batch, kl_weight) if prior is None else self._drawn_gradient(prior, batch, kl_weight)
        posterior.backward()
        return loss.add_(kl, alpha=kl_weight)

    def _drawn_gradient(self, prior: MixturePrior, batch: Batch, kl_weight: float) -> Tensor:
        """As `_kl_gradient`, of the KL from a mixture, estimated by the draws."""
        d_mean, d_log_variance = self._posterior.d_mean, self._posterior.d_log_variance
        log_prior, d_prior = prior.log_prob_gradient(self._z)
        # KL = -H(q) - log p(z), with the entropy H(q) = sum_j (log sigma_j^2 + 1 + log 2 pi) / 2.
        kl = (self._posterior.log_variance + (1.0 + _LOG_2PI)).sum(dim=-1).mul_(0.5).add_(log_prior).neg_()
        d_entropy = torch.full_like(d_prior, 0.5 * kl_weight)  # beta dH/dlog sigma^2 = beta / 2
        if batch.weight is not None:
            rows = batch.weight.unsqueeze(-1)
            kl *= batch.weight
            d_prior *= rows
            d_entropy *= rows
        # dL/dmu = dL/dz = d_z - beta w dlog p(z)/dz
        torch.sub(self._d_z, d_prior, alpha=kl_weight, out=d_mean)
        # dL/dlog sigma^2 = dL/dz sigma epsilon / 2 - beta w / 2, as dz/dlog sigma^2 = sigma epsilon / 2
        torch.addcmul(d_entropy.neg_(), d_mean, self._spread, value=0.5, out=d_log_variance)
        return kl.sum(dim=-1)

    def _kl_gradient(self, batch: Batch, kl_weight: float) -> Tensor:
        """Write the gradient of the posterior's parameters; return the batch's KL in nats."""
        mean, scale, d_z, d_mean = self._posterior.mean, self._posterior.scale, self._d_z, self._posterior.d_mean
        # dKL/dlog sigma^2 = (sigma^2 - 1) / 2, of which KL = sum_j (mu_j^2 + sigma_j^2 - 1 - log sigma_j^2) / 2 is made
        excess = torch.addcmul(self._minus_half, scale, scale, value=0.5, out=scale)
        cells = torch.sub(excess, self._posterior.log_variance, alpha=0.5, out=self._kl_cells)
        cells.addcmul_(mean, mean, value=0.5)
        # dL/dmu = d_z + beta w mu, as dKL/dmu = mu
        if batch.weight is None:
            torch.add(d_z, mean, alpha=kl_weight, out=d_mean)
        else:
            rows = batch.weight.unsqueeze(-1)
            torch.addcmul(d_z, mean, rows, value=kl_weight, out=d_mean)
            cells.mul_(rows)
            excess.mul_(rows)
        if kl_weight != 1.0:
            excess.mul_(kl_weight)
        # dL/dlog sigma^2 = d_z sigma epsilon / 2 + beta w (sigma^2 - 1) / 2, as dz/dlog sigma^2 = sigma epsilon / 2
        torch.addcmul(excess, d_z, self._spread, value=0.5, out=self._posterior.d_log_variance)
        return cells.sum() if cells.dim() == 2 else cells.sum((-2, -1))


class _BoundStep(Step):
    r"""The importance-weighted bound of N(0, I), of which the KL is a part: without a weight of its own, or dropout.

    .. math:: \nabla L_K = \sum_k \tilde w_k \nabla \log w_k, \quad \tilde w_k = w_k / \sum_l w_l

    For a draw :math:`z_k = \mu + \sigma \epsilon_k` the constants of prior and posterior cancel:

    .. math:: \log w_k = \log p(x \mid z_k) + \tfrac12 \sum_j (\epsilon_{kj}^2 - z_{kj}^2 + \log \sigma_j^2)

    In the comments L is the loss, the sum over the rows of -L_K times a row's weight, and v_k that weight times
    :math:`\tilde w_k`: dL/dlog w_k = -v_k.

    References
    ----------
    Burda, Grosse & Salakhutdinov (2016), https://arxiv.org/abs/1509.00519, section 3.
    """

    def __init__(self, engine: Engine, n_rows: int) -> None:
        module, self._shape = engine.module, (n_rows, engine.n_draws)
        values, gradients = engine.parts(engine.values), engine.parts(engine.gradient)
        self._posterior = _Posterior(engine, Workspace(engine.encoder, values[0], n_rows, gradients[0]))
        decoder = Workspace(engine.decoder, values[1], math.prod(self._shape), gradients[1], d_inputs=True)
        self._decoder, self._likelihood, self._d_free = decoder, module.likelihood, gradients[2]
        n, n_outputs = module.n_components, module.likelihood.n_outputs
        self._z, self._d_z = self._by_row(decoder.inputs, n), self._by_row(decoder.d_inputs, n)
        self._spread = torch.empty_like(self._z, memory_format=torch.contiguous_format)
        # Each draw is a batch of one row to the likelihood: then its one pass gives every draw's own loss.
        self._outputs = self._by_row(decoder.outputs, n_outputs).unsqueeze(-2)
        self._d_outputs = self._by_row(decoder.d_outputs, n_outputs).unsqueeze(-2)
        self._free = values[2][..., None, None, :].expand(*self._z.shape[:-1], -1)

    def _by_row(self, buffer: Tensor, width: int) -> Tensor:
        """View of shape (..., n_rows, n_draws, width)."""
        return buffer[..., :width].unflatten(-2, self._shape)

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        posterior, z = self._posterior, self._z
        posterior.forward(batch.inputs)
        noise = cast(Tensor, batch.noise).unflatten(-1, z.shape[-2:])
        torch.mul(posterior.scale.unsqueeze(-2), noise, out=self._spread)  # sigma epsilon_k
        torch.add(posterior.mean.unsqueeze(-2), self._spread, out=z)
        for call in self._decoder.forward_calls:
            call()
        mask = None if batch.mask is None else batch.mask[..., None, None, :]
        # Of each draw: -log p(x|z_k) and its derivatives by the decoder's outputs y_k and the free parameters.
        losses, d_outputs, d_free = self._likelihood.loss_gradient(
            batch.x[..., None, None, :], self._outputs, self._free, mask=mask, out=self._d_outputs
        )
        bound, importance = self._importance(batch, noise, losses)
        d_outputs.mul_(importance[..., None, None])  # dL/dy_k = -v_k dlog p(x|z_k)/dy_k
        if self._likelihood.n_free:  # dL/dfree = -sum_k v_k dlog p(x|z_k)/dfree, over all rows
            torch.matmul(importance.flatten(-2).unsqueeze(-2), d_free.flatten(-3, -2), out=self._d_free.unsqueeze(-2))
        for call in self._decoder.backward_calls:  # d_z = -v_k dlog p(x|z_k)/dz_k
            call()
        self._write_d_posterior(importance)
        posterior.backward()
        return -bound.sum(dim=-1)

    def _importance(self, batch: Batch, noise: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Each row's bound (..., n_rows) and v_k (..., n_rows, n_draws), its draws' normalised importance weights."""
        log_ratio = (noise.square() - self._z.square()).add_(self._posterior.log_variance.unsqueeze(-2)).sum(dim=-1)
        # The density of no cell is one, whatever the prior.
        some = None if batch.mask is None else batch.mask.any(dim=-1, keepdim=True)
        log_weight = (log_ratio if some is None else log_ratio * some).mul_(0.5).sub_(losses)
        total = torch.logsumexp(log_weight, dim=-1, keepdim=True)
        # w~_k = exp(log w_k - log sum_l w_l), and L_K = log sum_l w_l - log K
        importance, bound = log_weight.sub_(total).exp_(), total.squeeze(-1).sub_(math.log(self._shape[1]))
        if batch.weight is not None:
            bound *= batch.weight
            importance *= batch.weight.unsqueeze(-1)
        return bound, importance if some is None else importance.mul_(some)

    def _write_d_posterior(self, importance: Tensor) -> None:
        """Add the gradient of log p(z) to the decoder's; sum over the draws to that of mean and log-variance."""
        # dL/dz_k = d_z + v_k z_k, as dlog w_k/dz_k has -z_k of log p(z)
        d_z = self._d_z.addcmul_(self._z, importance.unsqueeze(-1))
        torch.sum(d_z, dim=-2, out=self._posterior.d_mean)  # dL/dmu = sum_k dL/dz_k
        # dL/dlog sigma^2 = sum_k (dL/dz_k sigma epsilon_k - v_k) / 2, as dz_k/dlog sigma^2 = sigma epsilon_k / 2
        d_log_variance = (d_z * self._spread).sum(dim=-2).sub_(importance.sum(dim=-1, keepdim=True)).mul_(0.5)
        self._posterior.d_log_variance.copy_(d_log_variance)


class AutogradStep(Step):
    """Whatever the module's own loss says, differentiated by autograd."""

    def __init__(self, engine: Engine, n_rows: int) -> None:
        self._engine = engine

    def __call__(self, batch: Batch, kl_weight: float) -> Tensor:
        engine = self._engine
        engine.store()
        with torch.enable_grad():
            loss = engine.module.loss(batch, kl_weight)
            (d_flat,) = torch.autograd.grad(loss.sum(), engine.module.flat)
        engine.gradient.copy_(engine.pack(d_flat))
        return loss.detach()


def _is_autoencoder(engine: Engine) -> bool:
    return isinstance(engine.module, AutoencoderModule)


def _is_vae(engine: Engine) -> bool:
    return isinstance(engine.module, VAEModule) and engine.n_draws == 1


def _is_plain_bound(engine: Engine) -> bool:
    several = isinstance(engine.module, VAEModule) and engine.n_draws > 1
    return several and not (engine.dropout or engine.learns_prior or engine.module.likelihood.sees_columns)


# In order of preference: a training takes the first that supports it. A new one is an entry here.
# A user's own torch networks would need a `LatentModule` that calls them in place of its `SkipMLP`s with their numbers
# as views of ``flat``, and an engine that packs ``flat`` as it is. The steps by hand would then decline whatever is not
# a `SkipMLP`, and the last entry, which asks for no more than `LatentModule.loss`, would train it.
STEPS: list[StepEntry] = [
    NATIVE,
    StepEntry("autoencoder", _is_autoencoder, _AutoencoderStep, recordable=True),
    StepEntry("vae", _is_vae, _VAEStep, recordable=True),
    StepEntry("bound", _is_plain_bound, _BoundStep, recordable=True),
    StepEntry("autograd", lambda engine: True, AutogradStep),
]
