"""The device in the config: whether it exists on this machine, and how far ahead of it the host may be."""

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


class DeviceQueue:
    """Bounds what waits on a GPU: updates are only launched, and return before they are done.

    trainer.update_many(mirror, updates)
    queue.bound()           # waits until the updates before these are done

    Without it the host would be seconds ahead, and so would a stop or a policy have to wait.
    """

    def __init__(self, device: torch.device) -> None:
        """Nothing waits there yet."""
        self._cuda = device.type == "cuda"
        self._before: torch.cuda.Event | None = None

    def bound(self) -> None:
        """Wait until all is done that was launched before the last call of this."""
        if not self._cuda:
            return
        event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record()
        if self._before is not None:
            self._before.synchronize()
        self._before = event
