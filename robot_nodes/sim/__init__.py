"""A MuJoCo arm that offers the topics of ros2_control, so the robot node cannot tell it from hardware."""
