"""The gradient of the NAF loss in closed form: what autograd gives, at less cost.

A network of this size spends its time in the overhead of operations, not in arithmetic, so the
backward pass is written out and every result goes into a buffer that is allocated once.
With z the head before tanh, t = tanh z, d = u − μ, w = Lᵀ d and δ = Q − y per value:

    ∂loss/∂V_k = δ_k / B          g = Σ_k ∂loss/∂V_k  (A enters every Q_k)
    ∂A/∂μ = L w      ∂A/∂L_ij = −d_i w_j  (i ≥ j)      ∂L_jj/∂t = L_jj      ∂t/∂z = 1 − t²
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.naf import VALUES, NafShape


class NafGradient:
    """Evaluates loss gradients for batches of one size; owns the buffers.

    gradient = NafGradient(shape, batch_size, flat, target_flat)
    gradient.compute(x, u, reward, discount, next_x)   # fills gradient.flat
    """

    def __init__(self, shape: NafShape, batch_size: int, online: Tensor, target: Tensor) -> None:
        """Allocate buffers for `batch_size` rows beside the flat parameters `online` and `target`."""
        self.shape = shape
        self.batch_size = batch_size
        self.flat = torch.zeros_like(online)
        B, nu = batch_size, shape.nu

        def buffer(*size: int) -> Tensor:
            return torch.zeros(size, dtype=online.dtype, device=online.device)

        self._layers = [(W.t(), W, b) for W, b in shape.layers(online)]
        *hidden, (head_W, head_b) = shape.layers(target)
        self._target_layers = [(W.t(), b) for W, b in [*hidden, (head_W[:VALUES], head_b[:VALUES])]]
        self._gradients = shape.layers(self.flat)
        self._hidden = [buffer(B, size) for size in shape.hidden_sizes]
        self._hidden_gradient = [buffer(B, size) for size in shape.hidden_sizes]
        self._next_hidden = [buffer(B, size) for size in shape.hidden_sizes]
        self._next_value = buffer(B, VALUES)
        self._head, self._head_gradient = buffer(B, shape.head_size), buffer(B, shape.head_size)
        self._t, self._slope = buffer(B, shape.head_size - VALUES), buffer(B, shape.head_size - VALUES)
        self._L = buffer(B, nu, nu)
        self._L_diagonal = self._L.diagonal(dim1=1, dim2=2)
        self._diagonal, self._d, self._w, self._Lw = (buffer(B, nu) for _ in range(4))
        self._dw = buffer(B, nu, nu)
        self._lower = shape.lower_indices().to(online.device)
        self._ones = torch.ones_like(self._hidden[0][:, 0])
        self.td_error = buffer(B, VALUES)

    @torch.no_grad()
    def compute(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        """Fill `flat` with ∂loss/∂θ and `td_error` with Q − y [B, 2].

        Args:
            x: Normalised observations [B, nx].
            u: Executed actions [B, nu].
            reward: Scaled rewards [B].
            discount: γ, or 0 where the task ended [B].
            next_x: Normalised next observations [B, nx].
        """
        y = torch.addcmul(reward, discount, self._next_values(next_x))
        self._forward(x)
        self._advantage(u)
        torch.sub(self._head[:, :VALUES], y[:, None], out=self.td_error)
        self.td_error.sub_(self._w.square().sum(dim=1, keepdim=True), alpha=0.5)
        self._backward_head()
        self._backward_trunk(x)

    def _next_values(self, next_x: Tensor) -> Tensor:
        h = next_x
        for (Wt, b), out in zip(self._target_layers[:-1], self._next_hidden, strict=True):
            torch.addmm(b, h, Wt, out=out)
            h = out.clamp_min_(0.0)
        Wt, b = self._target_layers[-1]
        torch.addmm(b, h, Wt, out=self._next_value)
        return self._next_value.amin(dim=1)

    def _forward(self, x: Tensor) -> None:
        h = x
        for (Wt, _, b), out in zip(self._layers[:-1], self._hidden, strict=True):
            torch.addmm(b, h, Wt, out=out)
            h = out.clamp_min_(0.0)
        Wt, _, b = self._layers[-1]
        torch.addmm(b, h, Wt, out=self._head)
        torch.tanh(self._head[:, VALUES:], out=self._t)

    def _advantage(self, u: Tensor) -> None:
        """Fill d = u − μ, the diagonal of L, and w = Lᵀ d."""
        nu = self.shape.nu
        torch.sub(u, self._t[:, :nu], out=self._d)
        torch.exp(self._t[:, nu : 2 * nu], out=self._diagonal)
        if not self.shape.off_diagonal:
            torch.mul(self._diagonal, self._d, out=self._w)
            return
        self._L_diagonal.copy_(self._diagonal)
        self._L.view(-1, nu * nu).index_copy_(1, self._lower, self._t[:, 2 * nu :])
        torch.bmm(self._d[:, None], self._L, out=self._w[:, None])

    def _backward_head(self) -> None:
        nu = self.shape.nu
        torch.mul(self.td_error, 1.0 / self.batch_size, out=self._head_gradient[:, :VALUES])
        tail = self._head_gradient[:, VALUES:]
        mu, diagonal = tail[:, :nu], tail[:, nu : 2 * nu]
        if self.shape.off_diagonal:
            torch.bmm(self._L, self._w[:, :, None], out=self._Lw[:, :, None])
            mu.copy_(self._Lw)
            torch.bmm(self._d[:, :, None], self._w[:, None], out=self._dw)
            torch.neg(self._dw.view(-1, nu * nu).index_select(1, self._lower), out=tail[:, 2 * nu :])
        else:
            torch.mul(self._diagonal, self._w, out=mu)
        torch.mul(self._d, self._w, out=diagonal)
        diagonal.mul_(self._diagonal).neg_()
        torch.mul(self._t, self._t, out=self._slope)
        torch.addcmul(tail, tail, self._slope, value=-1.0, out=tail)
        tail.mul_(self._head_gradient[:, :VALUES].sum(dim=1, keepdim=True))

    def _backward_trunk(self, x: Tensor) -> None:
        delta = self._head_gradient
        inputs = [x, *self._hidden]
        for i in range(len(self._layers) - 1, -1, -1):
            W_gradient, b_gradient = self._gradients[i]
            torch.mm(delta.t(), inputs[i], out=W_gradient)
            torch.mv(delta.t(), self._ones, out=b_gradient)
            if i:
                out = self._hidden_gradient[i - 1]
                torch.mm(delta, self._layers[i][1], out=out)
                delta = out.mul_(self._hidden[i - 1] > 0)
