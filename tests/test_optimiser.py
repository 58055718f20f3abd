"""The optimiser against torch's, and the course of its rate."""

import math

import pytest
import torch

from skvae._training.optimiser import Adam, one_cycle


def assert_close(actual, expected, tolerance):
    torch.testing.assert_close(actual, expected, rtol=tolerance, atol=tolerance)


@pytest.fixture(params=["fused", "plain"])
def make_adam(request, monkeypatch):
    """The fused call, and what stands in where torch has none."""
    if request.param == "plain":
        monkeypatch.delattr(torch, "_fused_adamw_")

    def make(flat):
        optimiser = Adam(flat)
        assert (optimiser._fused is None) == (request.param == "plain")
        return optimiser

    return make


@pytest.fixture(scope="module")
def compiler():
    """torch's own optimisers import its compiler at their first use, which takes seconds."""
    torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("max_norm", [math.inf, 1.0])
def test_adam_equals_torch(make_adam, compiler, weight_decay, max_norm, draw):
    """Step by step, with a rate that changes; a mean gradient longer than max_norm counts with that length."""
    parameter = torch.nn.Parameter(draw(20))
    flat = parameter.detach().clone()
    optimiser = make_adam(flat)
    oracle = torch.optim.AdamW([parameter], betas=(0.9, 0.99), eps=1e-8, weight_decay=weight_decay)
    norms = []
    for step in range(6):
        summed, n_rows, rate = draw(20) * 10.0 ** (step % 3), 4 + step, 0.1 / (1 + step)
        norms.append(float((summed / n_rows).norm()))
        parameter.grad = summed / n_rows * min(1.0, max_norm / norms[-1])
        oracle.param_groups[0]["lr"] = rate
        oracle.step()
        optimiser.gradient.copy_(summed)
        optimiser.step(rate, weight_decay, n_rows, max_norm)
        # Measured with the seeds 0 to 3: 2e-7, the step count and the row count are float32.
        assert_close(flat, parameter.detach(), 1e-6)
    assert max(norms) > 1.0


def test_adam_forgets_and_resumes(make_adam, draw):
    start, gradients = draw(5), draw(4, 5)

    def run(optimiser, chosen):
        for gradient in chosen:
            optimiser.gradient.copy_(gradient)
            optimiser.step(0.1, 0.0, 1.0, math.inf)
        return optimiser.flat.clone()

    whole = run(make_adam(start.clone()), gradients)
    first = make_adam(start.clone())
    run(first, gradients[:2])
    second = make_adam(first.flat.clone())
    second.load(first.state())
    assert torch.equal(run(second, gradients[2:]), whole)
    second.forget()
    second.flat.copy_(start)
    assert torch.equal(run(second, gradients), whole)


def test_one_cycle_by_hand():
    """Twelve steps: one of rise, then half a cosine in twelfths."""
    expected = [1.0, 0.9829629131445341, 0.9330127018922193, 0.8535533905932737, 0.75, 0.6294095225512604, 0.5]
    expected += [1.0 - value for value in expected[5:0:-1]]
    assert [one_cycle(step, 12) for step in range(12)] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("n_steps", [1, 2, 9, 10, 100, 1234])
def test_one_cycle_rises_once_and_falls_once(n_steps):
    rates = [one_cycle(step, n_steps) for step in range(n_steps)]
    assert min(rates) > 0.0
    assert max(rates) == 1.0
    top = rates.index(1.0)
    assert top + 1 == max(1, n_steps // 10)
    assert rates[: top + 1] == pytest.approx([(step + 1) / (top + 1) for step in range(top + 1)])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_one_cycle_of_many_steps_is_computed_at_a_step():
    """A quarter and all of the way down a cosine of 9e17 steps, of which no list has room."""
    n_steps = 10**18
    assert one_cycle(0, n_steps) == 1e-17
    assert one_cycle(n_steps // 10 - 1, n_steps) == 1.0
    assert one_cycle(n_steps // 10 + 225 * 10**15, n_steps) == pytest.approx(0.5 + 0.5 * math.sqrt(0.5), abs=1e-12)
    assert one_cycle(n_steps - 1, n_steps) == pytest.approx(0.0, abs=1e-12)
