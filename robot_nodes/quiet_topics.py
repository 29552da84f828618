"""Topics that cost nothing while no message comes.

By default rclpy has each publisher and subscription tell of clients whose QoS does not match, by four or
five more things that the executor looks at whenever it wakes: a tenth of a control tick's work for every ten
topics. Our subscriptions match every publisher anyway.
"""

from __future__ import annotations

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # ROS 2 Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

QUIET_PUBLISHER = PublisherEventCallbacks(use_default_callbacks=False)
QUIET_SUBSCRIPTION = SubscriptionEventCallbacks(use_default_callbacks=False)
