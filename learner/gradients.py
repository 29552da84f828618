"""The gradient of the NAF loss: in closed form where there is one, by autograd elsewhere.

A network of this size spends its time in the overhead of operations, not in arithmetic, so the
backward pass is written out and every result goes into a buffer that is allocated once.
With z the head before tanh, t = tanh z, d = u − μ, w = Lᵀ d and δ = Q − y per value:

    ∂loss/∂V_k = δ_k / B          g = Σ_k ∂loss/∂V_k  (A enters every Q_k)
    ∂A/∂μ = L w      ∂A/∂L_ij = −d_i w_j  (i ≥ j)      ∂L_jj/∂t = L_jj      ∂t/∂z = 1 − t²

With `diagonal: scaled`, L = diag(e^s) L̂ of those L̂: ∂A/∂s_i = −d_i (L w)_i, and each entry's gradient
has its row's factor. With `exp`, t = z but for μ. The λ of `learner/behaviour.py` adds λ w ρ (μ − u) / B to
∂loss/∂μ, and a factor 1 − λ to all else.
"""

from __future__ import annotations

import torch
from torch import Tensor

from learner.behaviour import Behaviour
from learner.naf import NafShape, evaluate, q_value
from learner.target_bounds import TargetBounds


class AutogradGradient(TargetBounds):
    """For networks with layer normalisation, residuals or a linear μ; see `learner.algorithms.Gradient`."""

    def __init__(
        self,
        shape: NafShape,
        rows: int,
        online: Tensor,
        target: Tensor,
        batch_size: int,
        behaviour: Behaviour | None = None,
    ) -> None:
        """See `learner.algorithms.make_gradient`."""
        super().__init__(online)
        self.shape, self._online, self._target, self._share = shape, online, target, rows / batch_size
        self._behaviour = behaviour or Behaviour(0.0, 0.0, online, shape.nu)
        self.flat = torch.zeros_like(online)
        self.td_error = online.new_zeros(rows, shape.values)

    def compute(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        """See `Gradient.compute`."""
        with torch.no_grad():
            next_value = evaluate(self.shape, self._target, next_x).V.amin(dim=1)
            y = torch.addcmul(reward, discount, next_value).clamp_(self.low, self.high)
        flat = self._online.detach().requires_grad_()
        naf = evaluate(self.shape, flat, x)
        td_error = q_value(naf.V, u, naf.mu, naf.L) - y[:, None]
        loss = (1.0 - self._behaviour.weight) * 0.5 * td_error.square().sum(dim=1).mean()
        if self._behaviour.weight:
            w = self._behaviour.row_weights(y - naf.V.detach().amin(dim=1))
            distance = self._behaviour.precision * (u - naf.mu).square()
            loss = loss + self._behaviour.weight * 0.5 * (w * distance).sum(dim=1).mean()
        loss = self._share * loss
        self.flat.copy_(torch.autograd.grad(loss, flat)[0])
        self.td_error.copy_(td_error.detach())


class NafGradient(TargetBounds):
    """In closed form, for plain networks; see `learner.algorithms.Gradient`."""

    def __init__(
        self,
        shape: NafShape,
        rows: int,
        online: Tensor,
        target: Tensor,
        batch_size: int,
        behaviour: Behaviour | None = None,
    ) -> None:
        """Allocate buffers; see `learner.algorithms.make_gradient`."""
        super().__init__(online)
        self.shape = shape
        self._behaviour = behaviour or Behaviour(0.0, 0.0, online, shape.nu)
        self._weight = (1.0 - self._behaviour.weight) / batch_size
        self._behaviour_weight = self._behaviour.weight / batch_size
        self.flat = torch.zeros_like(online)
        B, nu = rows, shape.nu

        def buffer(*size: int) -> Tensor:
            return torch.zeros(size, dtype=online.dtype, device=online.device)

        self._layers = [(W.t(), W, b) for W, b in shape.layers(online)]
        *hidden, (head_W, head_b) = shape.layers(target)
        self._target_layers = [
            (W.t(), b) for W, b in [*hidden, (head_W[: shape.values], head_b[: shape.values])]
        ]
        self._gradients = shape.layers(self.flat)
        self._hidden = [buffer(B, size) for size in shape.hidden_sizes]
        self._hidden_gradient = [buffer(B, size) for size in shape.hidden_sizes]
        self._next_hidden = [buffer(B, size) for size in shape.hidden_sizes]
        self._next_value = buffer(B, shape.values)
        self._head, self._head_gradient = buffer(B, shape.head_size), buffer(B, shape.head_size)
        self._V_columns, self._tail_columns = slice(0, shape.values), slice(shape.values, None)
        self._t = buffer(B, shape.head_size - shape.values)
        self._bent = nu if shape.diagonal == "exp" else self._t.shape[1]  # columns of t with a tanh
        self._slope = buffer(B, self._bent)
        self._log_scale, self._log_scale_gradient = shape.log_scale(online), shape.log_scale(self.flat)
        self._factor = buffer(nu)
        self._L = buffer(B, nu, nu)
        self._L_diagonal = self._L.diagonal(dim1=1, dim2=2)
        self._diagonal, self._d, self._w, self._Lw = (buffer(B, nu) for _ in range(4))
        self._dw = buffer(B, nu, nu)
        self._lower = shape.lower_indices().to(online.device)
        self._ones = torch.ones_like(self._hidden[0][:, 0])
        self.td_error = buffer(B, shape.values)

    @torch.no_grad()
    def compute(self, x: Tensor, u: Tensor, reward: Tensor, discount: Tensor, next_x: Tensor) -> None:
        """See `Gradient.compute`."""
        y = torch.addcmul(reward, discount, self._next_values(next_x)).clamp_(self.low, self.high)
        self._forward(x)
        self._advantage(u)
        torch.sub(self._head[:, self._V_columns], y[:, None], out=self.td_error)
        self.td_error.sub_(self._w.square().sum(dim=1, keepdim=True), alpha=0.5)
        pull = self._pull(u, y) if self._behaviour_weight else None
        self._backward_head()
        if pull is not None:
            self._head_gradient[:, self._V_columns.stop : self._V_columns.stop + self.shape.nu].add_(pull)
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
        self._t.copy_(self._head[:, self._tail_columns])
        self._t[:, : self._bent].tanh_()

    def _advantage(self, u: Tensor) -> None:
        """Fill d = u − μ (times e^s if scaled), the diagonal of L̂, and w = L̂ᵀ d."""
        nu = self.shape.nu
        torch.sub(u, self._t[:, :nu], out=self._d)
        if self.shape.diagonal == "scaled":
            torch.exp(self._log_scale, out=self._factor)
            self._d.mul_(self._factor)
        torch.exp(self._t[:, nu : 2 * nu], out=self._diagonal)
        if not self.shape.off_diagonal:
            torch.mul(self._diagonal, self._d, out=self._w)
            return
        self._L_diagonal.copy_(self._diagonal)
        self._L.view(-1, nu * nu).index_copy_(1, self._lower, self._t[:, 2 * nu :])
        torch.bmm(self._d[:, None], self._L, out=self._w[:, None])

    def _pull(self, u: Tensor, y: Tensor) -> Tensor:
        """What keeps μ near the executed actions: its part of the gradient by μ before its tanh [B, nu]."""
        mu = self._t[:, : self.shape.nu]
        w = self._behaviour.row_weights(y - self._head[:, self._V_columns].amin(dim=1))
        return self._behaviour_weight * w * self._behaviour.precision * (mu - u) * (1.0 - mu * mu)

    def _backward_head(self) -> None:
        nu = self.shape.nu
        torch.mul(self.td_error, self._weight, out=self._head_gradient[:, self._V_columns])
        g = self._head_gradient[:, self._V_columns].sum(dim=1, keepdim=True)
        tail = self._head_gradient[:, self._tail_columns]
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
        if self.shape.diagonal == "scaled":
            torch.mul(mu, self._d, out=self._Lw)
            torch.mm(g.t(), self._Lw, out=self._log_scale_gradient[None])
            self._log_scale_gradient.neg_()
            mu.mul_(self._factor)
        bent, t = tail[:, : self._bent], self._t[:, : self._bent]
        torch.mul(t, t, out=self._slope)
        torch.addcmul(bent, bent, self._slope, value=-1.0, out=bent)
        tail.mul_(g)

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
