"""How a learner, a monitor or the command line talks to the replay server.

    with ReplayClient("tcp://127.0.0.1:5710", role="learner", process_id="learner") as client:
        run_id = client.hello().run_id
        while training:
            reply = client.tail(cursor, max_rows=4096)
            cursor = reply.next_cursor

A learner that must not wait sends a tail request and looks for the reply between updates:

        client.begin_tail(cursor, max_rows=4096)
        …
        if (reply := client.poll_tail()) is not None:
            cursor = reply.next_cursor
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar

import zmq

from fleet.codec import decode, encode
from fleet.keys import Credentials
from fleet.messages import (
    CommandReceipt,
    FleetCommand,
    Heartbeat,
    Hello,
    Message,
    MessageError,
    Refusal,
    SampleReply,
    SampleRequest,
    Status,
    StatusRequest,
    TailReply,
    TailRequest,
    Welcome,
)
from fleet.sockets import Context, Socket, connect_dealer

_Reply = TypeVar("_Reply", Welcome, Status, SampleReply, TailReply, CommandReceipt)


class ReplayError(RuntimeError):
    """The replay server did not do what was asked."""


class ReplayTimeout(ReplayError, TimeoutError):  # noqa: N818 - it is what its callers read
    """No answer in time; the text names the endpoint."""


class ReplayRefused(ReplayError):  # noqa: N818
    """The server said no; the text is its reason."""


class ReplayClient:
    """Requests to one replay server, one at a time, plus one tail request in flight.

    Use it from one thread. ZeroMQ connects and reconnects in the background, so the server may
    start later or restart; after a timeout the socket is made anew, so that no request waits in a
    queue for a server that comes back minutes later, and no late reply is taken for a newer one.
    """

    def __init__(
        self,
        endpoint: str,
        role: str,
        process_id: str,
        boot_id: str | None = None,
        *,
        timeout_s: float = 5.0,
        context: Context | None = None,
        credentials: Credentials | None = None,
    ) -> None:
        """Connect in the background.

        Args:
            endpoint: Where the server is bound.
            role: "learner" or "monitor"; shown in the status.
            process_id: Name shown in the status.
            boot_id: Which start of this process; random by default.
            timeout_s: Of each request that gives none (s).
            context: ZeroMQ context; the process-wide one by default.
            credentials: This process's keys; none: the server is on this machine.
        """
        self.endpoint = endpoint
        self.role = role
        self.process_id = process_id
        self.boot_id = boot_id or uuid.uuid4().hex[:16]
        self._timeout_s = timeout_s
        self._credentials = credentials
        self._context: Context = context or zmq.Context.instance()
        self._sockets_made = 0
        self._request_id = 0
        self._tail_deadline_s: float | None = None
        self._tail_id = -1
        self._tail_result: TailReply | ReplayRefused | None = None
        self._socket = self._connect()

    def _connect(self) -> Socket:
        self._sockets_made += 1
        # The random part is secret, or others could take the connection over; it also keeps two commands
        # of one name apart, as the number keeps two sockets of one client.
        identity = f"{self.process_id}:{secrets.token_hex(8)}:{self._sockets_made}"
        return connect_dealer(self._context, self.endpoint, identity.encode(), self._credentials)

    def __enter__(self) -> ReplayClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket; whatever waits in it is dropped."""
        self._socket.close()

    def hello(self, timeout_s: float | None = None) -> Welcome:
        """Say who this is and learn the run's id and spec."""
        hello = Hello(role=self.role, process_id=self.process_id, boot_id=self.boot_id)
        return self._ask(hello, Welcome, timeout_s)

    def status(self, timeout_s: float | None = None) -> Status:
        """The server's numbers and the newest heartbeat of each process."""
        return self._ask(StatusRequest(request_id=self._next_id()), Status, timeout_s)

    def sample(
        self,
        batches: int,
        batch_size: int,
        timeout_s: float | None = None,
        *,
        demonstration_fraction: float = 0.0,
    ) -> SampleReply:
        """`batches` minibatches of `batch_size` rows, one after the other [batches * batch_size, …].

        Args:
            batches: Number of minibatches.
            batch_size: Rows of each.
            timeout_s: As in `ReplayClient`.
            demonstration_fraction: Share of each minibatch drawn from the rows in which a person moved
                the robot, if there are any, and put first; 0.5 is the symmetric sampling of RLPD (Ball
                et al. 2023, arXiv:2302.02948). The rest is drawn from all rows.

        Raises:
            ReplayRefused: Too few rows yet, too many asked for, or the rate limiter says wait.
            ReplayTimeout: The server did not answer.
        """
        request = SampleRequest(
            request_id=self._next_id(),
            batches=batches,
            batch_size=batch_size,
            demonstration_fraction=demonstration_fraction,
        )
        return self._ask(request, SampleReply, timeout_s)

    def tail(self, cursor: int, max_rows: int, timeout_s: float | None = None) -> TailReply:
        """The rows from `cursor` on, at most `max_rows`; none if there is nothing new.

        Go on from the reply's `next_cursor`: it is above `cursor` + rows when rows were overwritten
        before they were read, and below `cursor` when the server restarted without some.
        """
        return self._ask(
            TailRequest(request_id=self._next_id(), cursor=cursor, max_rows=max_rows), TailReply, timeout_s
        )

    def begin_tail(self, cursor: int, max_rows: int, timeout_s: float | None = None) -> None:
        """Send a tail request and return at once; `poll_tail` has the reply."""
        if self._tail_deadline_s is not None:
            if time.monotonic() >= self._tail_deadline_s:  # nobody polled for it, as after a malformed frame
                raise self._timed_out("TailRequest")
            raise ReplayError("a tail request is in flight already: poll_tail first")
        self._tail_id, self._tail_result = self._next_id(), None
        self._tail_deadline_s = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        self._send(TailRequest(request_id=self._tail_id, cursor=cursor, max_rows=max_rows))

    def poll_tail(self, wait_s: float = 0.0) -> TailReply | None:
        """The reply to `begin_tail`, or none if it is not there within `wait_s`.

        Raises:
            ReplayRefused: The server said no.
            ReplayTimeout: The request is older than its timeout; begin again.
        """
        if self._tail_deadline_s is None:
            raise ReplayError("no tail request is in flight: begin_tail first")
        until = min(time.monotonic() + wait_s, self._tail_deadline_s)
        if self._tail_result is None:  # it may have come while another answer was waited for
            self._receive(lambda message: self._tail_result is not None, until)
        result = self._tail_result
        if result is None:
            if time.monotonic() < self._tail_deadline_s:
                return None
            raise self._timed_out("TailRequest")
        self._tail_deadline_s, self._tail_result = None, None
        if isinstance(result, ReplayRefused):
            raise result
        return result

    def command(
        self, kind: str, target: str = "*", reason: str = "", timeout_s: float | None = None
    ) -> CommandReceipt:
        """Pass a command ("pause", "resume", "stop", "estop") to a robot, or to all ("*").

        Raises:
            ReplayRefused: No such robot or command, or the robot has been silent.
            ReplayTimeout: The server did not answer.
        """
        return self._ask(FleetCommand(kind=kind, target=target, reason=reason), CommandReceipt, timeout_s)

    def heartbeat(self, state: str, stats: Mapping[str, Any] | None = None) -> None:
        """Tell the server how this process is; never waits, lost if the server is away."""
        self._send(
            Heartbeat(
                role=self.role,
                process_id=self.process_id,
                boot_id=self.boot_id,
                state=state,
                stamp_ns=time.time_ns(),
                stats=dict(stats or {}),
            )
        )

    def _next_id(self) -> int:
        self._request_id += 1
        return self._request_id

    def _send(self, message: Message) -> bool:
        try:
            self._socket.send(encode(message), zmq.NOBLOCK)
        except zmq.Again:
            return False
        return True

    def _ask(self, request: Message, reply_type: type[_Reply], timeout_s: float | None) -> _Reply:
        deadline = time.monotonic() + (self._timeout_s if timeout_s is None else timeout_s)
        name = type(request).__name__
        request_id = getattr(request, "request_id", None)
        answer: list[Message] = []

        def is_answer(message: Message) -> bool:
            if isinstance(message, Refusal):
                fits = message.request in (name, "frame")
            else:
                fits = isinstance(message, reply_type) and getattr(message, "request_id", None) == request_id
            if fits:
                answer.append(message)
            return fits

        if not self._send(request) or not self._receive(is_answer, deadline):
            raise self._timed_out(name)
        if isinstance(answer[0], Refusal):
            raise ReplayRefused(f"{self.endpoint} refused {name}: {answer[0].reason}")
        assert isinstance(answer[0], reply_type)
        return answer[0]

    def _receive(self, done: Callable[[Message], bool], until_s: float) -> bool:
        """Read messages until one is what is waited for; whatever else is late is dropped."""
        while True:
            left_s = max(until_s - time.monotonic(), 0.0)
            if not self._socket.poll(int(left_s * 1000 + 0.999)):
                return False
            try:
                message = decode(self._socket.recv(zmq.NOBLOCK))
            except MessageError as error:
                raise ReplayError(
                    f"{self.endpoint} sent something else than this version's messages: {error}"
                ) from error
            self._keep_tail(message)
            if done(message):
                return True

    def _keep_tail(self, message: Message) -> None:
        """Put the answer to `begin_tail` aside, also while another answer is waited for."""
        if self._tail_deadline_s is None or self._tail_result is not None:
            return
        if isinstance(message, TailReply) and message.request_id == self._tail_id:
            self._tail_result = message
        # Answers come in order, so the refusal is that of the tail in flight, not of a later one.
        elif isinstance(message, Refusal) and message.request == "TailRequest":
            self._tail_result = ReplayRefused(f"{self.endpoint} refused TailRequest: {message.reason}")

    def _timed_out(self, request: str) -> ReplayTimeout:
        self._socket.close()
        self._socket = self._connect()
        self._tail_deadline_s, self._tail_result = None, None
        return ReplayTimeout(
            f"no answer to {request} from {self.endpoint}: "
            f"is the replay server running there? (pnaf replay-server){self._key_hint()}"
        )

    def _key_hint(self) -> str:
        """A server says nothing to those it does not know."""
        if self._credentials is None:
            return ""
        own = self._credentials.own
        return f" And does it allow the key {own.name} {own.fingerprint}? (pnaf keys show)"
