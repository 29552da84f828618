"""An rclpy node with one timer that does nothing: what any node of this rate costs here.

python -m benchmarks.common.bare_timer RATE_HZ OUT.npz
"""

from __future__ import annotations

import sys
import time
from array import array

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from fleet.ready import notify_ready, stop_on_signals


def main() -> None:
    """Spin as the robot node does until SIGTERM, then save when the ticks came."""
    stop = stop_on_signals()
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node = Node("bare_timer")
    ticks = array("d")
    node.create_timer(1.0 / float(sys.argv[1]), lambda: ticks.append(time.monotonic()))
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    notify_ready()
    while not stop.is_set():
        executor.spin_once(timeout_sec=0.1)
    np.savez(sys.argv[2], start=np.array(ticks))
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main()
