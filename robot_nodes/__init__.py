"""The robot's side: control loop, guard, kinematics, exploration, experience sender, tasks, drivers."""
