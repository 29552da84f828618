from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
import zmq

from fleet.codec import decode
from fleet.config import LearnerConfig
from fleet.messages import PolicyMessage
from fleet.sockets import Context, Socket, bind_policy_publisher, connect_policy_subscriber
from fleet.spaces import SpaceSpec
from learner.publisher import PolicyPublisher, policy_message
from learner.trainer import DivergedError, Trainer
from robot_nodes.policy import NumpyPolicy

WaitUntil = Callable[..., None]
CONFIG = LearnerConfig(hidden_sizes=[8, 8], batch_size=4, exploration_correlation=0.5)


@pytest.fixture
def context() -> Iterator[Context]:
    context: Context = zmq.Context()
    yield context
    context.destroy(linger=0)


def receive(socket: Socket, publisher: PolicyPublisher, wait_until: WaitUntil) -> PolicyMessage:
    def arrived() -> int:
        publisher.serve()
        return socket.poll(10)

    wait_until(arrived, what="a policy")
    message = decode(socket.recv())
    assert isinstance(message, PolicyMessage)
    return message


def test_message_holds_what_a_robot_needs(spec: SpaceSpec) -> None:
    trainer = Trainer(CONFIG, spec)
    message = policy_message(trainer, "run", 3, exploration_std=0.2, published_ns=17)
    assert message.layer_sizes == [3, 8, 8, 2]
    assert message.parameters.dtype == np.dtype("<f4")
    assert len(message.parameters) == 4 * 8 + 9 * 8 + 9 * 2
    assert (message.run_id, message.version, message.learner_step) == ("run", 3, 0)
    assert (message.exploration_std, message.exploration_correlation, message.published_ns) == (0.2, 0.5, 17)
    NumpyPolicy.from_message(message, spec)


def test_message_says_how_the_network_is_built(spec: SpaceSpec) -> None:
    changes = {
        "layer_norm": True, "residual": True, "exploration": "precision",
        "diagonal": "scaled", "off_diagonal": True,
    }  # fmt: skip
    message = policy_message(Trainer(CONFIG.model_copy(update=changes), spec), "run", 0, 0.2, 0)
    assert (message.layer_norm, message.residual) == (True, True)
    assert (message.noise, message.diagonal, message.off_diagonal) == ("precision", "scaled", True)
    assert message.layer_sizes == [3, 8, 8, 2]
    # μ, then two diagonals and one entry below them, then two log_scale
    assert len(message.parameters) == 4 * 8 + 9 * 8 + 9 * 2 + 9 * 3 + 2


def test_every_late_subscriber_gets_the_last_policy(
    spec: SpaceSpec, context: Context, free_endpoint: str, wait_until: WaitUntil
) -> None:
    trainer = Trainer(CONFIG, spec)
    publisher = PolicyPublisher(bind_policy_publisher(context, free_endpoint))
    publisher.serve()  # nothing to send yet: must not fail
    for version in range(3):
        publisher.publish(policy_message(trainer, "run", version, 0.1, 0))
    first = connect_policy_subscriber(context, free_endpoint)
    assert receive(first, publisher, wait_until).version == 2
    second = connect_policy_subscriber(context, free_endpoint)
    assert receive(second, publisher, wait_until).version == 2
    assert publisher.subscriptions == 2
    publisher.publish(policy_message(trainer, "run", 3, 0.1, 0))
    wait_until(lambda: first.poll(10) and second.poll(10))
    versions = []
    for socket in (first, second):
        message = receive(socket, publisher, wait_until)
        while message.version != 3:  # the re-send for `second` also reached `first`
            message = receive(socket, publisher, wait_until)
        versions.append(message.version)
    assert versions == [3, 3]
    for socket in (first, second):
        socket.close()
    publisher.close()


def test_the_last_policy_is_repeated_as_it_was(
    spec: SpaceSpec, context: Context, free_endpoint: str, wait_until: WaitUntil
) -> None:
    publisher = PolicyPublisher(bind_policy_publisher(context, free_endpoint))
    publisher.repeat()  # nothing to send yet: must not fail
    socket = connect_policy_subscriber(context, free_endpoint)
    publisher.publish(policy_message(Trainer(CONFIG, spec), "run", 4, 0.1, 17))
    assert receive(socket, publisher, wait_until).published_ns == 17
    for _ in range(2):
        publisher.repeat()
        assert socket.poll(5000)
        again = receive(socket, publisher, wait_until)
        assert (again.version, again.published_ns) == (4, 17)
    assert publisher.subscriptions == 1
    socket.close()
    publisher.close()


def test_a_policy_that_is_not_finite_is_never_made(spec: SpaceSpec) -> None:
    trainer = Trainer(CONFIG, spec)
    with torch.no_grad():
        trainer.flat[5] = float("nan")
    with pytest.raises(DivergedError, match="policy 9 is not finite after 0 updates: not published"):
        policy_message(trainer, "run", 9, 0.1, 0)
