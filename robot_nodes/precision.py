"""L(x) from the outputs that a policy has for it, and noise of covariance ∝ P⁻¹ from that."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
Layer = tuple[Vector, Vector, Vector]

_MAX_LOG = 20.0  # of an entry of the diagonal: e^20 is far beyond what training means, and no overflow


class PrecisionFactor:
    """The last layer of a policy that gives L of `learner/naf.py`, P = L Lᵀ, in buffers of its own.

    factor = PrecisionFactor(layer, nu, "bounded", ())
    L = factor(hidden)          # [nu, nu], valid until the next call
    """

    def __init__(self, layer: Layer, nu: int, diagonal: str, log_scale: npt.ArrayLike) -> None:
        """Take what does not change with the observation.

        Args:
            layer: W [n, hidden], b [n] and a buffer [n]; n outputs: diagonal [nu], then the entries below it,
                row by row, if there are any.
            nu: Size of the action.
            diagonal: "bounded", "scaled" or "exp": see `lower_triangular_of` there.
            log_scale: [nu] if scaled; not read otherwise.
        """
        self._weight, self._bias, self._outputs = layer
        self._tanh = diagonal != "exp"
        exponent = np.asarray(log_scale, np.float64) if diagonal == "scaled" else np.zeros(nu)
        self._row_scale = np.exp(np.clip(exponent, -_MAX_LOG, _MAX_LOG))[:, None]
        self._L = np.zeros((nu, nu))
        self._diagonal = self._L.reshape(-1)[:: nu + 1]
        self._below = np.tril_indices(nu, -1) if len(self._bias) > nu else None

    def __call__(self, hidden: Vector) -> Matrix:
        """L for what the last hidden layer gave."""
        out, nu = self._outputs, len(self._L)
        np.dot(self._weight, hidden, out=out)
        np.add(out, self._bias, out=out)
        if self._tanh:
            np.tanh(out, out=out)
        np.clip(out[:nu], -_MAX_LOG, _MAX_LOG, out=self._diagonal)
        np.exp(self._diagonal, out=self._diagonal)
        if self._below is not None:
            self._L[self._below] = out[nu:]
        return np.multiply(self._L, self._row_scale, out=self._L)


def shaped_by_precision(white: Matrix, factor: Matrix) -> Matrix:
    """√(nu / tr P⁻¹) · L⁻ᵀ ε, for P = L Lᵀ: covariance ∝ P⁻¹, and its variances are 1 on average [nu].

    N(μ, c P⁻¹) is an exploration of arXiv:1603.00748: it varies most the actions that matter least to Q.
    With c = nu / tr P⁻¹ the noise is as strong as white noise, whatever the scale of Q.

    Args:
        white: ε, of unit variance [nu].
        factor: L, lower triangular, with a positive diagonal [nu, nu].
    """
    inverse = np.eye(len(factor))
    for i, row in enumerate(factor):  # forward substitution: divides by the diagonal alone, which is never 0
        inverse[i] -= row[:i] @ inverse[:i]
        inverse[i] /= row[i]
    noise: Matrix = (white @ inverse) * np.sqrt(len(factor) / np.square(inverse).sum())
    return noise
