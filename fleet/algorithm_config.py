"""Every knob of learning, and the presets that turn several of them at once."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from typing_extensions import Self

from fleet.config_model import Fraction, Model, NonNegative, Positive

Algorithm = Literal["naf", "naf_2016", "naf_linear", "ddpg"]

NAF_2016: dict[str, Any] = {
    "values": 1,
    "diagonal": "exp",
    "off_diagonal": True,
    "normalise_rewards": False,
    "reward_scale": 1.0,
    "normalise_observations": False,
    "updates_per_row": 5.0,
    "learning_rate": 1e-3,
    "gamma": 0.99,
    "polyak_tau": 1e-3,
    "exploration_std": 0.3,
}
"""NAF as published: two layers of 100 ReLU (arXiv:1610.00633, section V), one value, an exponentiated
diagonal of a full L, five updates per step, Adam with one of the learning rates and noise scales that
arXiv:1603.00748 searched (its section 7: 1e-4 … 1e-2 and 0.1 … 1). Discount, Polyak rate and batch size
are not in either text; they are DDPG's (arXiv:1509.02971)."""

PRESETS: dict[str, dict[str, Any]] = {
    "naf": {},
    "naf_2016": NAF_2016,
    "naf_linear": {"linear_mean": True},
    "ddpg": {"learning_rate": 1e-3, "values": 1},
}
"""What `algorithm` changes of the defaults of `AlgorithmConfig`; a key that is given wins over its preset."""


class AlgorithmConfig(Model):
    """How the learner learns; `learner/naf.py` gives the equations, docs/learning.md what each is worth.

    The defaults are our own: `algorithm: naf_2016` is NAF as published.
    """

    algorithm: Algorithm = Field(
        "naf",
        description="Sets these keys' defaults. naf: ours; naf_2016: as published; naf_linear: ours with a "
        "linear μ; ddpg: an actor and a critic (arXiv:1509.02971).",
    )
    hidden_sizes: list[Annotated[int, Field(ge=1)]] = Field(
        [100, 100], min_length=1, description="Width of each ReLU layer."
    )
    layer_norm: bool = Field(
        False,
        description="Normalise each hidden layer before its ReLU (arXiv:1607.06450, no parameters).",
    )
    residual: bool = Field(False, description="Hidden layers as wide as their input add it to their output.")
    linear_mean: bool = Field(False, description="μ is tanh(K x + k), not an output of the network.")
    values: int = Field(2, ge=1, le=16, description="Values V of which the target takes the smallest.")
    diagonal: Literal["bounded", "scaled", "exp"] = Field(
        "scaled",
        description="Of L, from an output d: bounded: exp(tanh d); scaled: that times a learned factor of "
        "each action; exp: exp(d), as published.",
    )
    off_diagonal: bool = Field(False, description="P has off-diagonal entries; otherwise it is diagonal.")
    batch_size: int = Field(64, ge=1, description="Transitions per update.")
    demonstration_fraction: Fraction = Field(
        0.0,
        description="Share of each minibatch drawn from rows in which a person moved the robot, once there "
        "are any; the rest is drawn from all rows. 0.5 is the symmetric sampling of RLPD (arXiv:2302.02948).",
    )
    learning_rate: Positive = Field(5e-4, description="Of Adam.")
    gamma: Fraction = Field(0.95, description="Discount of the value of the next state, per step.")
    polyak_tau: Fraction = Field(
        0.005, description="Share of the way to the network that the target goes per update."
    )
    normalise_rewards: bool = Field(True, description="Divide rewards by the root mean square of all so far.")
    reward_scale: Positive = Field(1.0, description="Factor of rewards, normalised or not.")
    clip_targets: bool = Field(
        False, description="TD targets lie within what the smallest and largest reward seen would sum up to."
    )
    behaviour_weight: Fraction = Field(
        0.0,
        description="λ: share of the loss that keeps μ near the logged actions; 0: plain NAF, 1: behaviour "
        "cloning. `pnaf offline train` sets it; see docs/offline.md.",
    )
    behaviour_temperature: NonNegative = Field(
        1.0,
        description="T: with behaviour_weight, actions count by exp(a / (T rms a)), a = y − V: those that "
        "turned out better are kept to more; 0: all count alike.",
    )
    n_step: int = Field(
        1,
        ge=1,
        le=20,
        description="Steps that a TD target looks ahead; corrected for actions other than μ.",
    )
    updates_per_row: Positive = Field(4.0, description="Updates per transition inserted.")
    warmup_rows: int = Field(1000, ge=1, description="Rows before the first update; robots act at random.")
    normalise_observations: bool = Field(True, description="By running mean and standard deviation.")
    exploration_std: NonNegative = Field(0.4, description="Noise on actions, which lie in [-1, 1].")
    warmup_exploration_std: NonNegative = Field(1.0, description="exploration_std before the first update.")
    exploration_correlation: float = Field(
        0.0, ge=0, lt=1, description="Of the noise of one tick with that of the next; 0: white noise."
    )

    exploration: Literal["gaussian", "precision"] = Field(
        "gaussian",
        description="gaussian: noise alike for all actions; precision: of covariance ∝ P⁻¹, strongest where "
        "Q minds least, with exploration_std the root of its mean variance (arXiv:1603.00748).",
    )
    exploration_ladder: float = Field(
        1.0,
        ge=1,
        description="r: exploration_std of the fleet's first robot is divided by r, of the last times r, in "
        "equal ratios between; beside each robot's exploration_scale. 1: all alike (cf. arXiv:1803.00933).",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, data: Any) -> Any:
        """Fill in what the preset says of keys that are not given."""
        if not isinstance(data, dict):
            return data
        algorithm = data.get("algorithm", "naf")
        preset = PRESETS.get(algorithm, {}) if isinstance(algorithm, str) else {}
        return {**preset, **data}

    @model_validator(mode="after")
    def _check_scale(self) -> Self:
        if self.gamma == 1.0 and (self.normalise_rewards or self.clip_targets):
            raise ValueError(
                "gamma: 1 gives rewards no finite sum, which normalise_rewards and clip_targets need"
            )
        return self

    @model_validator(mode="after")
    def _check_n_step(self) -> Self:
        if self.n_step > 1 and self.algorithm == "ddpg":
            raise ValueError("n_step: needs NAF's advantage, which algorithm ddpg has not; use n_step: 1")
        return self

    @model_validator(mode="after")
    def _check_ddpg(self) -> Self:
        if self.algorithm != "ddpg":
            return self
        for key in (
            *("layer_norm", "residual", "linear_mean", "off_diagonal", "diagonal"),
            *("behaviour_weight", "behaviour_temperature"),
        ):
            default = type(self).model_fields[key].default
            if getattr(self, key) != default:
                raise ValueError(f"{key}: algorithm ddpg has no such thing; leave it at {default}")
        return self

    @model_validator(mode="after")
    def _check_exploration(self) -> Self:
        if self.exploration == "precision" and (self.linear_mean or self.algorithm == "ddpg"):
            without = "of algorithm ddpg" if self.algorithm == "ddpg" else "with linear_mean"
            raise ValueError(f"exploration: precision needs P, which robots {without} lack; use gaussian")
        return self

    def ladder_factor(self, index: int, robots: int) -> float:
        """What `exploration_std` is multiplied by on the index-th of the fleet's robots.

        r^(2 i / (N − 1) − 1): 1/r, r for two robots, 1/r, 1/∛r, ∛r, r for four; one robot alone has 1. The
        ladder of Ape-X (arXiv:1803.00933: ε^(1 + α i / (N − 1))) for a standard deviation, centred on it.
        """
        return 1.0 if robots == 1 else float(self.exploration_ladder ** (2.0 * index / (robots - 1) - 1.0))
