"""Robots simulated in Gazebo 11: its installation, the world plugin and the driver of each arm."""
