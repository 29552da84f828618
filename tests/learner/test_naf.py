"""NAF's maths against numbers computed by hand, and the properties that make it NAF."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.naf import (
    Naf,
    NafNetwork,
    NafShape,
    advantage,
    lower_triangular,
    naf_loss,
    policy_layer_sizes,
    policy_layers,
    polyak_update,
    positive_diagonal,
    q_value,
    td_target,
)

# L Lᵀ = [[4, 2], [2, 10]]; d = u − μ = (0.5, −1): dᵀ P d = 4·.25 + 2·2·(−.5) + 10 = 9, A = −4.5
L = torch.tensor([[[2.0, 0.0], [1.0, 3.0]]])
U = torch.tensor([[0.6, -0.8]])
MU = torch.tensor([[0.1, 0.2]])


def test_advantage_is_minus_half_the_quadratic_form() -> None:
    assert advantage(U, MU, L).item() == pytest.approx(-4.5, abs=1e-6)


def test_q_adds_the_advantage_to_each_value() -> None:
    q = q_value(torch.tensor([[1.0, -2.0]]), U, MU, L)
    assert q.tolist() == [[pytest.approx(-3.5), pytest.approx(-6.5)]]


def test_lower_triangular_places_the_entries_row_by_row() -> None:
    made = lower_triangular(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[4.0, 5.0, 6.0]]))
    assert made[0].tolist() == [[1.0, 0.0, 0.0], [4.0, 2.0, 0.0], [5.0, 6.0, 3.0]]


def test_diagonal_is_bounded_and_one_at_zero() -> None:
    d = positive_diagonal(torch.tensor([-1e9, 0.0, 1e9]))
    assert d.tolist() == [pytest.approx(1 / math.e), 1.0, pytest.approx(math.e)]


@pytest.mark.parametrize(
    ("terminated", "expected"),
    [pytest.param(False, 2.3, id="ordinary or truncated"), pytest.param(True, 0.5, id="terminated")],
)
def test_td_target(terminated: bool, expected: float) -> None:
    y = td_target(torch.tensor([0.5]), torch.tensor([terminated]), torch.tensor([2.0]), gamma=0.9)
    assert y.item() == pytest.approx(expected)


def test_loss_by_hand() -> None:
    # Q = (1 − 4.5, −2 − 4.5), y = −3: δ = (−0.5, −3.5); second row at u = μ: Q = V = (0, 4), δ = (3, 7)
    naf = Naf(torch.tensor([[1.0, -2.0], [0.0, 4.0]]), MU.repeat(2, 1), L.repeat(2, 1, 1))
    u = torch.cat([U, MU])
    loss = naf_loss(naf, u, torch.tensor([-3.0, -3.0]))
    by_hand = ((0.25 + 12.25) / 2 + (9 + 49) / 2) / 2
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_loss_of_a_network_against_numpy() -> None:
    shape = NafShape(nx=3, nu=2, hidden_sizes=(5,), off_diagonal=True)
    network = NafNetwork(shape, torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    x, u, y = rng.normal(size=(4, 3)), rng.uniform(-1, 1, (4, 2)), rng.normal(size=4)
    flat = network.flat.detach().double().numpy()
    W1, b1, rest = flat[:15].reshape(5, 3), flat[15:20], flat[20:]
    W2, b2 = rest[:35].reshape(7, 5), rest[35:]  # head: V1 V2 | m1 m2 | d1 d2 | o21
    assert len(b2) == 7
    expected = 0.0
    for i in range(4):
        z = W2 @ np.maximum(W1 @ x[i] + b1, 0) + b2
        lower = np.array([[np.exp(np.tanh(z[4])), 0], [np.tanh(z[6]), np.exp(np.tanh(z[5]))]])
        d = u[i] - np.tanh(z[2:4])
        a = -0.5 * d @ (lower @ lower.T) @ d
        expected += 0.5 * ((z[0] + a - y[i]) ** 2 + (z[1] + a - y[i]) ** 2) / 4
    tensors = [torch.tensor(array, dtype=torch.float32) for array in (x, u, y)]
    assert naf_loss(network(tensors[0]), tensors[1], tensors[2]).item() == pytest.approx(expected, rel=1e-5)


def test_polyak_numbers() -> None:
    target, online = torch.tensor([0.0, 8.0]), torch.tensor([4.0, -8.0])
    polyak_update(target, online, 0.25)
    assert target.tolist() == [1.0, 4.0]
    assert online.tolist() == [4.0, -8.0]


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31 - 1), off_diagonal=st.booleans(), nu=st.integers(1, 7))
def test_q_is_v_at_mu_never_above_and_p_positive_definite(seed: int, off_diagonal: bool, nu: int) -> None:
    shape = NafShape(nx=4, nu=nu, hidden_sizes=(8, 8), off_diagonal=off_diagonal)
    generator = torch.Generator().manual_seed(seed)
    network = NafNetwork(shape, generator)
    with torch.no_grad():  # far from the quiet initial head: heads of any size must hold
        network.flat.mul_(10.0)
        naf = network(10.0 * torch.randn(16, 4, generator=generator))
        u = 2.0 * torch.rand(16, nu, generator=generator) - 1.0
        assert torch.equal(q_value(naf.V, naf.mu, naf.mu, naf.L), naf.V)
        assert (q_value(naf.V, u, naf.mu, naf.L) <= naf.V).all()
        assert (naf.mu.abs() <= 1.0).all()
        P = naf.L.double() @ naf.L.double().mT
        assert (torch.linalg.eigvalsh(P) > 0).all()


def test_policy_layers_compute_mu_alone() -> None:
    shape = NafShape(nx=3, nu=2, hidden_sizes=(6, 5), off_diagonal=True)
    network = NafNetwork(shape, torch.Generator().manual_seed(3))
    x = torch.randn(7, 3)
    h = x
    *hidden, (W, b) = policy_layers(shape, network.flat)
    for weight, bias in hidden:
        h = torch.relu(h @ weight.T + bias)
    assert torch.allclose(torch.tanh(h @ W.T + b), network(x).mu, atol=1e-6)
    assert policy_layer_sizes(shape) == [3, 6, 5, 2]
