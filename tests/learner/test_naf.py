"""NAF's maths against numbers computed by hand, and the properties that make it NAF."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.naf import (
    Naf,
    NafShape,
    advantage,
    evaluate,
    lower_triangular,
    lower_triangular_of,
    naf_loss,
    polyak_update,
    q_value,
    td_target,
)

# L Lᵀ = [[4, 2], [2, 10]]; d = u − μ = (0.5, −1): dᵀ P d = 4·.25 + 2·2·(−.5) + 10 = 9, A = −4.5
approx = pytest.approx
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


def test_kinds_of_diagonal() -> None:
    """Bounded is 1 at 0 and in (1/e, e); scaled is that, row by row, times e^s; exp is unbounded."""
    d, o, none = torch.tensor([[-1e9, 0.0, 1.0]]), torch.tensor([[1e9, -1e9, 0.5]]), torch.zeros(0)
    t = math.tanh(0.5)
    bounded = lower_triangular_of(d, o, "bounded", none)
    e = math.exp(math.tanh(1.0))
    assert bounded[0].tolist() == [
        approx([1 / math.e, 0, 0]),
        approx([1, 1, 0]),
        approx([-1, t, e]),
    ]
    scaled = lower_triangular_of(d, o, "scaled", torch.tensor([0.0, math.log(2), math.log(10)]))
    assert scaled[0].tolist() == [
        approx([1 / math.e, 0, 0]),
        approx([2, 2, 0]),
        approx([-10, 10 * t, 10 * e]),
    ]
    published = lower_triangular_of(torch.tensor([[-1.0, 2.0]]), torch.tensor([[7.0]]), "exp", none)
    assert published[0].tolist() == [approx([math.exp(-1), 0]), approx([7, math.exp(2)])]


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
    parameters = shape.initial_parameters(torch.Generator().manual_seed(1))
    rng = np.random.default_rng(0)
    x, u, y = rng.normal(size=(4, 3)), rng.uniform(-1, 1, (4, 2)), rng.normal(size=4)
    flat = parameters.double().numpy()
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
    naf = evaluate(shape, parameters, tensors[0])
    assert naf_loss(naf, tensors[1], tensors[2]).item() == pytest.approx(expected, rel=1e-5)


def test_polyak_numbers() -> None:
    target, online = torch.tensor([0.0, 8.0]), torch.tensor([4.0, -8.0])
    polyak_update(target, online, 0.25)
    assert target.tolist() == [1.0, 4.0]
    assert online.tolist() == [4.0, -8.0]


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**31 - 1),
    nu=st.integers(1, 7),
    network=st.fixed_dictionaries(
        {},
        optional={
            "off_diagonal": st.booleans(),
            "values": st.integers(1, 3),
            "diagonal": st.sampled_from(["bounded", "scaled"]),
            "layer_norm": st.booleans(),
            "residual": st.booleans(),
            "linear_mean": st.booleans(),
        },
    ),
)
def test_q_is_v_at_mu_never_above_and_p_positive_definite(
    seed: int, nu: int, network: dict[str, Any]
) -> None:
    shape = NafShape(nx=4, nu=nu, hidden_sizes=(8, 8), **network)
    generator = torch.Generator().manual_seed(seed)
    flat = shape.initial_parameters(generator)
    flat.mul_(10.0)  # far from the quiet initial head: heads of any size must hold
    naf = evaluate(shape, flat, 10.0 * torch.randn(16, 4, generator=generator))
    u = 2.0 * torch.rand(16, nu, generator=generator) - 1.0
    assert torch.equal(q_value(naf.V, naf.mu, naf.mu, naf.L), naf.V)
    assert (q_value(naf.V, u, naf.mu, naf.L) <= naf.V).all()
    assert (naf.mu.abs() <= 1.0).all()
    P = naf.L.double() @ naf.L.double().mT
    assert (torch.linalg.eigvalsh(P) > 0).all()


def test_policy_layers_compute_mu_alone() -> None:
    shape = NafShape(nx=3, nu=2, hidden_sizes=(6, 5), off_diagonal=True, values=3)
    flat = shape.initial_parameters(torch.Generator().manual_seed(3))
    h = x = torch.randn(7, 3)
    *hidden, (W, b) = shape.policy_layers(flat)
    for weight, bias in hidden:
        h = torch.relu(h @ weight.T + bias)
    assert torch.allclose(torch.tanh(h @ W.T + b), evaluate(shape, flat, x).mu, atol=1e-6)
    assert shape.policy_layer_sizes == [3, 6, 5, 2]


def test_a_linear_mean_is_linear_in_the_observation() -> None:
    shape = NafShape(nx=3, nu=2, hidden_sizes=(6, 5), linear_mean=True)
    flat = shape.initial_parameters(torch.Generator().manual_seed(3))
    x = torch.randn(7, 3)
    ((K, k),) = shape.policy_layers(flat)
    assert torch.allclose(torch.tanh(x @ K.T + k), evaluate(shape, flat, x).mu, atol=1e-6)
    assert shape.policy_layer_sizes == [3, 2]


def test_layer_norm_and_residual_by_hand() -> None:
    """One layer of two units, W = I, b = 0: z = (3, 1) is normalised to (1, −1), ReLU gives (1, 0)."""
    x = torch.tensor([[3.0, 1.0]])
    for network, expected in (
        ({"layer_norm": True}, [1.0, 0.0]),
        ({"residual": True}, [6.0, 2.0]),
        ({"layer_norm": True, "residual": True}, [4.0, 1.0]),
    ):
        shape = NafShape(nx=2, nu=1, hidden_sizes=(2,), values=2, **network)
        flat = torch.zeros(shape.parameters)
        (W, _), (head, _) = shape.layers(flat)
        W.copy_(torch.eye(2))
        head[:2] = torch.eye(2)  # the two values show the hidden layer
        assert evaluate(shape, flat, x).V[0].tolist() == pytest.approx(expected, abs=1e-4)
