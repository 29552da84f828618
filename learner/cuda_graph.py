"""Updates as CUDA graphs: drawing, gathering, K gradient steps and target steps in one launch.

On a GPU a network of this size spends its time in the launches of its operations. A graph holds them all, so
that the host launches K updates at once and waits for none. What changes between launches (rows held, the
normaliser, the scale of rewards, Adam's step count) lies in tensors on the device.

Where graphs cannot be had the same operations run one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
from torch import Tensor

from fleet.config import LearnerConfig
from fleet.messages import OBSERVATION_CLIP
from learner.adam import BETA_1, BETA_2, EPSILON, Adam
from learner.algorithms import Gradient
from learner.mirror import ReplayMirror
from learner.naf import polyak_update

logger = logging.getLogger(__name__)

UPDATES_PER_GRAPH = 16
_ALIGNMENT_ROWS = 64


class GraphedUpdates:
    """A trainer's updates on its own device, from one mirror; one-step targets, no demonstrations.

        graphed = GraphedUpdates(config, mirror, gradient, flat, target, adam, generator)
        graphed.normalise(mean, scale, reward_scale)    # whenever they change
        graphed.update_many(1000)

    What updates do does not depend on how they are divided into calls.

    Attributes:
        mirror: Where minibatches come from.
    """

    def __init__(
        self,
        config: LearnerConfig,
        mirror: ReplayMirror,
        gradient: Gradient,
        flat: Tensor,
        target: Tensor,
        adam: Adam,
        generator: torch.Generator,
    ) -> None:
        """Allocate buffers beside the trainer's tensors, all of them on the mirror's device.

        Args:
            config: How to learn.
            mirror: Where minibatches come from.
            gradient: Of `flat` and `target`, for whole minibatches.
            flat: Parameters of the network.
            target: Those of the target network.
            adam: Its moments and its count of steps are used, not its arithmetic.
            generator: Draws the minibatches.
        """
        self._config, self.mirror, self._gradient = config, mirror, gradient
        self._flat, self._target, self._adam, self._generator = flat, target, adam, generator
        device, layout, K, B = flat.device, mirror.layout, UPDATES_PER_GRAPH, config.batch_size
        # Whole multiples, for the rounding of a product may depend on its operands' alignment in memory.
        padded = -(-B // _ALIGNMENT_ROWS) * _ALIGNMENT_ROWS
        self._held, self._start = (torch.zeros((), dtype=torch.int64, device=device) for _ in range(2))
        self._uniform = torch.zeros(K, padded, dtype=torch.float64, device=device)
        self._index = torch.zeros(K, padded, dtype=torch.int64, device=device)
        self._rows = torch.zeros(K, padded, layout.width, device=device)
        self._reward, self._discount = (torch.zeros(K, padded, device=device) for _ in range(2))
        self._mean = torch.zeros(2 * layout.nx, device=device)
        self._scale = torch.ones(2 * layout.nx, device=device)
        self._reward_scale = torch.ones((), device=device)
        self._steps = torch.zeros((), device=device)
        self._optimiser = self._make_optimiser()
        self._launches: dict[int, Callable[[], None]] = {}

    def _make_optimiser(self) -> torch.optim.Adam:
        """PyTorch's Adam, in one kernel and with its step count on the device, on the trainer's tensors."""
        parameters = self._flat.detach()
        parameters.grad = self._gradient.flat
        optimiser = torch.optim.Adam(
            [parameters],
            lr=self._config.learning_rate,
            betas=(BETA_1, BETA_2),
            eps=EPSILON,
            fused=True,
            capturable=self._flat.is_cuda,
        )
        moments = {"exp_avg": self._adam.first, "exp_avg_sq": self._adam.second}
        optimiser.state[parameters] = {"step": self._steps, **moments}
        return optimiser

    def normalise(self, mean: Tensor, scale: Tensor, reward_scale: float) -> None:
        """Use other statistics from the next update on; mean and scale of both observations [2 nx]."""
        self._mean.copy_(mean)
        self._scale.copy_(scale)
        self._reward_scale.fill_(reward_scale)

    def update_many(self, updates: int) -> None:
        """Do `updates` updates, each on its own minibatch; returns before they are done.

        Raises:
            ValueError: The mirror is empty.
        """
        mirror = self.mirror
        if not len(mirror):
            raise ValueError("cannot sample from an empty mirror")
        self._held.fill_(len(mirror))
        self._start.fill_(mirror.oldest_cursor % mirror.capacity)
        self._steps.fill_(self._adam.steps)
        blocks, single = divmod(updates, UPDATES_PER_GRAPH)
        for size, times in ((UPDATES_PER_GRAPH, blocks), (1, single)):
            for _ in range(times):
                self._launch(size)
        self._adam.steps += updates

    def _launch(self, updates: int) -> None:
        if updates not in self._launches:
            self._launches[updates] = self._capture(updates)
        self._launches[updates]()

    def _capture(self, updates: int) -> Callable[[], None]:
        """What does so many updates: a graph, or the operations one by one."""

        def one_by_one() -> None:
            self.draw(updates)
            self.learn(updates)

        if not self._flat.is_cuda:
            return one_by_one
        state = [self._flat, self._target, self._adam.first, self._adam.second, self._steps]
        before, drawn = [tensor.clone() for tensor in state], self._generator.get_state()
        try:
            stream = torch.cuda.Stream(self._flat.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(self._flat.device))
            with torch.cuda.stream(stream):
                one_by_one()  # libraries set themselves up, which a graph cannot hold
            torch.cuda.current_stream(self._flat.device).wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            graph.register_generator_state(self._generator)
            # Other threads may go on with what a capture on this one does not allow.
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                one_by_one()
        except RuntimeError as error:
            logger.warning("updates run without CUDA graphs, which takes several times as long: %s", error)
            return one_by_one
        finally:
            for tensor, value in zip(state, before, strict=True):
                tensor.copy_(value)
            self._generator.set_state(drawn)
        replay: Callable[[], None] = graph.replay
        return replay

    def draw(self, updates: int) -> None:
        """Draw positions of rows uniformly, of those that the mirror holds."""
        for uniform in self._uniform[:updates]:
            torch.rand(uniform.shape, generator=self._generator, dtype=torch.float64, out=uniform)
        index = self._index[:updates]
        index.copy_(self._uniform[:updates].mul_(self._held))
        index.add_(self._start).remainder_(self.mirror.capacity)

    @torch.no_grad()
    def learn(self, updates: int) -> None:
        """Do so many updates on the rows that were drawn."""
        rows, layout, nx = self._rows[:updates], self.mirror.layout, self.mirror.layout.nx
        self.mirror.gather(self._index[:updates].view(-1), out=rows.view(-1, layout.width))
        observations = rows[..., layout.observations]
        observations.sub_(self._mean).mul_(self._scale).clamp_(-OBSERVATION_CLIP, OBSERVATION_CLIP)
        torch.mul(rows[..., layout.reward], self._reward_scale, out=self._reward[:updates])
        torch.mul(rows[..., layout.bootstrap], self._config.gamma, out=self._discount[:updates])
        size = self._config.batch_size
        for i in range(updates):
            batch = rows[i, :size]
            with torch.enable_grad():  # for networks whose gradient is autograd's
                self._gradient.compute(
                    batch[:, :nx],
                    batch[:, layout.action],
                    self._reward[i, :size],
                    self._discount[i, :size],
                    batch[:, nx : 2 * nx],
                )
            self._optimiser.step()
            polyak_update(self._target, self._flat, self._config.polyak_tau)
