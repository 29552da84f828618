"""The server over real sockets: many robots, broken frames, vanished peers, restarts."""

from __future__ import annotations

import socket
import struct
import threading
from pathlib import Path
from typing import Any

import pytest
import zmq

from fleet.codec import encode
from fleet.config import ReplayServerConfig
from fleet.endpoints import InsecureEndpointError
from fleet.messages import MAX_FRAME_BYTES, Ack, Refusal, Status, StatusRequest, TailRequest, Welcome
from fleet.sockets import AddressInUseError
from replay_server.episode_store import StoreError, list_episodes, read_episode
from replay_server.server import run_replay_server


def stats_of(peer: Any) -> dict[str, Any]:
    status = peer.ask(StatusRequest(request_id=1))
    assert isinstance(status, Status)
    return status.stats


def send_rows(
    peer: Any, make_batch: Any, robot_id: str, total: int, episode_rows: int = 100, window: int = 8
) -> None:
    """Send rows 0 … total - 1 in batches of 25, `window` under way, until all are acknowledged."""
    batches = [
        make_batch(
            25,
            first,
            first // episode_rows,
            robot_id=robot_id,
            end="time_limit" if (first + 25) % episode_rows == 0 else "",
        )
        for first in range(0, total, 25)
    ]
    sent = acked = 0
    while acked < len(batches):
        while sent < min(acked + window, len(batches)):
            peer.send(batches[sent])
            sent += 1
        reply = peer.receive()
        assert isinstance(reply, Ack), reply
        assert (reply.durable_seq + 1) % 25 == 0
        assert reply.sealed_seq <= reply.durable_seq
        acked = (reply.durable_seq + 1) // 25


def test_four_robots_with_2000_rows_each_are_8000_rows_on_disk(fleet, make_batch) -> None:
    failures: list[BaseException] = []
    with fleet() as it:

        def robot(robot_id: str) -> None:
            try:
                peer = it.peer(f"{robot_id}:b0".encode())
                assert isinstance(peer.hello(robot_id), Welcome)
                send_rows(peer, make_batch, robot_id, 2000)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=robot, args=(f"arm{i}",)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert not failures
        stats = stats_of(it.peer(b"asker"))
        assert stats["replay/rows_inserted"] == stats["replay/end_cursor"] == 8000
        assert [stats[f"replay/rows/arm{i}"] for i in range(4)] == [2000] * 4
    seqs: dict[str, list[int]] = {}
    cursors: list[int] = []
    for summary in list_episodes(it.run_dir):
        episode = read_episode(summary.path)
        assert summary.info.complete and summary.info.rows == 100
        assert episode.transitions.reward.tolist() == episode.seq.tolist()
        seqs.setdefault(summary.info.robot_id, []).extend(episode.seq.tolist())
        cursors += episode.cursor.tolist()
    assert {robot: sorted(found) for robot, found in seqs.items()} == {
        f"arm{i}": list(range(2000)) for i in range(4)
    }
    assert sorted(cursors) == list(range(8000))


def test_a_restarted_server_goes_on_where_it_was(fleet, make_batch) -> None:
    with fleet() as it:
        peer = it.peer()
        first = peer.hello()
        peer.ask(make_batch(30, 0))
    with fleet() as it:
        again = it.peer()
        second = again.hello()
        assert isinstance(first, Welcome) and isinstance(second, Welcome)
        assert first.server_boot_id != second.server_boot_id
        assert second.durable_seq == 29
        reply = again.ask(TailRequest(request_id=1, cursor=0, max_rows=99))
        assert reply.reward.tolist() == list(range(30))
        assert again.ask(make_batch(10, 25, end="success")).durable_seq == 34
    (summary,) = list_episodes(it.run_dir)
    assert (summary.info.rows, summary.info.complete) == (35, True)


def test_malformed_frames_are_counted_refused_and_survived(fleet, make_batch) -> None:
    frame = encode(make_batch(4, 0))
    broken = [
        b"",
        b"hello",
        frame[:-1],
        frame + b"x",
        frame[:4] + b"\x09" + frame[5:],
        b"PNAF" + b"\xff" * 60,
    ]
    with fleet() as it:
        peer = it.peer()
        peer.hello()
        for bad in broken:
            peer.socket.send(bad)
            reply = peer.receive()
            assert isinstance(reply, Refusal) and reply.request == "frame"
        peer.socket.send_multipart([frame, frame])
        reply = peer.receive()
        assert isinstance(reply, Refusal) and reply.reason == "a message is one frame, got 2"
        assert stats_of(peer)["replay/malformed_frames"] == len(broken) + 1
        assert peer.ask(make_batch(4, 0)).durable_seq == 3


def test_a_frame_above_the_limit_ends_that_connection_only(fleet) -> None:
    with fleet() as it:
        host, port = it.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(b"\xff" + bytes(8) + b"\x7f" + b"\x03" + bytes(1) + b"NULL" + bytes(16) + bytes(32))
            raw.settimeout(10)
            greeting = b""
            while len(greeting) < 64:
                greeting += raw.recv(64 - len(greeting))
            ready = b"\x05READY" + b"\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
            raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
            raw.sendall(b"\x00\x05hello")  # the connection works
            answer = b""
            while b"not a parallel-naf frame" not in answer and b"expected 10 to" not in answer:
                received = raw.recv(4096)
                assert received, answer
                answer += received
            raw.sendall(b"\x02" + struct.pack(">Q", MAX_FRAME_BYTES + 1))  # the head of a frame
            while raw.recv(4096):  # ends when the server hangs up
                pass
        peer = it.peer()
        assert isinstance(peer.hello(), Welcome)


def test_garbage_on_the_port_disturbs_nobody(fleet) -> None:
    with fleet() as it:
        host, port = it.endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n" * 20)
        assert isinstance(it.peer().hello(), Welcome)


def test_peers_that_vanish_or_do_not_read_hold_up_nobody(fleet, make_batch, context) -> None:
    with fleet() as it:
        peer = it.peer()
        peer.hello()
        peer.ask(make_batch(2000, 0, end="time_limit"))
        vanishing = it.peer(b"gone")
        deaf = it.peer(b"deaf")
        deaf.socket.setsockopt(zmq.RCVHWM, 1)
        for i in range(500):  # 500 × 2000 rows: far more than queues and kernel buffers hold
            deaf.send(TailRequest(request_id=i, cursor=0, max_rows=2000))
        for i in range(50):
            vanishing.send(TailRequest(request_id=i, cursor=0, max_rows=2000))
        vanishing.receive()
        vanishing.socket.close()
        assert peer.ask(make_batch(5, 2000, 1)).durable_seq == 2004
        assert stats_of(peer)["replay/rows_inserted"] == 2005


def test_a_robot_that_restarts_under_its_identity_takes_over(fleet, make_batch) -> None:
    with fleet() as it:
        first = it.peer()
        first.hello()
        second = it.peer()
        assert isinstance(second.hello(), Welcome)
        assert second.ask(make_batch(3, 0)).durable_seq == 2


def test_an_internal_error_is_refused_and_survived(fleet, make_batch, monkeypatch) -> None:
    from replay_server.service import ReplayService

    def fail(self: ReplayService) -> dict[str, float]:
        raise ZeroDivisionError("a defect")

    with fleet() as it:
        peer = it.peer()
        with monkeypatch.context() as patch:
            patch.setattr(ReplayService, "stats", fail)
            reply = peer.ask(StatusRequest(request_id=1))
        assert (
            isinstance(reply, Refusal) and "internal error of the server: ZeroDivisionError" in reply.reason
        )
        assert isinstance(peer.ask(StatusRequest(request_id=2)), Status)


def run_once(endpoint: str, run_dir: Path) -> None:
    run_replay_server(ReplayServerConfig(endpoint=endpoint), run_dir, "run1", stop=lambda: True)


def test_a_port_in_use_a_folder_in_use_and_an_open_address_are_said(fleet, tmp_path, make_endpoint) -> None:
    with fleet() as it:
        with pytest.raises(AddressInUseError, match="is in use: stop the process that holds it"):
            run_once(it.endpoint, tmp_path / "other")
        with pytest.raises(StoreError, match="in use by another replay server"):
            run_once(make_endpoint(), it.run_dir)
    with pytest.raises(InsecureEndpointError, match="pnaf keys new server"):
        run_once("tcp://0.0.0.0:5710", tmp_path / "other")
    run_once(it.endpoint, it.run_dir)


def test_the_server_says_in_one_line_where_it_is(fleet, caplog) -> None:
    with caplog.at_level("INFO", logger="replay_server.server"), fleet() as it:
        pass
    ready = [record.getMessage() for record in caplog.records if "ready" in record.getMessage()]
    assert ready == [f"replay server ready at {it.endpoint} (no keys), run run1 in {it.run_dir}, 0 rows"]
