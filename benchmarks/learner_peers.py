"""Other learners under the measurement of learner_throughput.py: the updates of public implementations.

`learner_throughput.py --peers` runs this file in the peers' own environment, one process per peer:

    PEER_PYTHON benchmarks/learner_peers.py NAME

It reads one JSON object a line, `{"seconds": 0.5, "width": 100, "batch_size": 64}`, and answers each
with a line of figures or `{"error": reason}`. An update is everything that theirs does: drawing a
minibatch from their replay memory of 10,000 transitions (observation 30, action 7), gradient step, target
step. Nothing else of this project is imported.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

NX, NU, ROWS = 30, 7, 10_000
Update = Callable[[], None]


def pfrl_naf(width: int, batch_size: int) -> Update:
    """Its NAF: a DQN agent whose Q is quadratic in the action."""
    import gym
    import pfrl

    # It was written for NumPy < 1.24.
    np.bool = bool  # type: ignore[attr-defined]
    space = gym.spaces.Box(-1.0, 1.0, (NU,), np.float32)
    network = pfrl.q_functions.FCQuadraticStateQFunction(NX, NU, width, 2, space)
    memory = pfrl.replay_buffers.ReplayBuffer(ROWS)
    random = np.random.default_rng(0)
    for _ in range(ROWS):
        memory.append(
            random.normal(size=NX).astype("f4"),
            random.uniform(-1, 1, NU).astype("f4"),
            float(random.normal()),
            random.normal(size=NX).astype("f4"),
            is_state_terminal=False,
        )
    agent = pfrl.agents.DQN(
        network,
        torch.optim.Adam(network.parameters(), 1e-3),
        memory,
        gamma=0.98,
        explorer=pfrl.explorers.Greedy(),
        replay_start_size=ROWS,
        minibatch_size=batch_size,
        target_update_method="soft",
        soft_update_tau=0.005,
    )

    def update() -> None:
        agent.update(memory.sample(batch_size))
        agent.sync_target_network()

    return update


def stable_baselines3(algorithm: str, width: int, batch_size: int) -> Update:
    """DDPG or SAC with networks of our width."""
    import gymnasium
    import stable_baselines3
    from stable_baselines3.common.logger import Logger

    class Task(gymnasium.Env[Any, Any]):
        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (NX,), np.float32)
        action_space = gymnasium.spaces.Box(-1.0, 1.0, (NU,), np.float32)

    model = getattr(stable_baselines3, algorithm)(
        "MlpPolicy",
        Task(),
        buffer_size=ROWS,
        batch_size=batch_size,
        policy_kwargs={"net_arch": [width, width]},
        device="cpu",
    )
    model.set_logger(Logger(folder=None, output_formats=[]))
    random = np.random.default_rng(0)
    for _ in range(ROWS):
        model.replay_buffer.add(
            random.normal(size=(1, NX)),
            random.normal(size=(1, NX)),
            random.uniform(-1, 1, (1, NU)),
            random.normal(size=1),
            np.zeros(1, bool),
            [{}],
        )
    return lambda: model.train(gradient_steps=1, batch_size=batch_size)


PEERS: dict[str, tuple[str, Callable[[int, int], Update]]] = {
    "pfrl NAF": ("pfrl {pfrl}", pfrl_naf),
    "SB3 DDPG": ("stable-baselines3 {stable-baselines3}", lambda w, b: stable_baselines3("DDPG", w, b)),
    "SB3 SAC": ("stable-baselines3 {stable-baselines3}", lambda w, b: stable_baselines3("SAC", w, b)),
}


def timed(update: Update, seconds: float) -> dict[str, float]:
    """Updates per second of the clock and per second of the processor."""
    update()
    done, begun, cpu = 0, time.perf_counter(), time.process_time()
    while time.perf_counter() < begun + seconds:
        update()
        done += 1
    cpu_s, wall_s = time.process_time() - cpu, time.perf_counter() - begun
    return {"updates/s": done / wall_s, "updates/CPU s": done / cpu_s}


def main() -> None:
    # Peers print to stdout as they like: the answers go to a copy of it.
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    torch.set_num_threads(1)
    how, make = PEERS[sys.argv[1]]
    for part in how.split("{")[1:]:
        name = part.partition("}")[0]
        how = how.replace(f"{{{name}}}", version(name))
    answers.write(json.dumps({"how": how}) + "\n")
    updates: dict[tuple[int, int], Update] = {}
    for line in sys.stdin:
        question = json.loads(line)
        setting = question["width"], question["batch_size"]
        try:
            if setting not in updates:
                updates[setting] = make(*setting)
            answer = timed(updates[setting], question["seconds"])
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main()
