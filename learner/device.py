"""Whether the device in the config exists on this machine."""

from __future__ import annotations

import torch

from fleet.config import ConfigError


def check_device(name: str) -> None:
    """Make sure that PyTorch can compute on `learner.device`.

    Raises:
        ConfigError: It finds no such device; the text says what to do.
    """
    device = torch.device(name)
    if device.type != "cuda":
        return
    found = torch.cuda.device_count()
    if not found:
        raise ConfigError(
            f"learner.device = {name}: PyTorch {torch.__version__} finds no CUDA device: use cpu, or install "
            "the GPU's driver and a PyTorch built for CUDA (https://pytorch.org/get-started)"
        )
    if (device.index or 0) >= found:
        raise ConfigError(
            f"learner.device = {name}: PyTorch finds {found} CUDA device(s), numbered from cuda:0"
        )
