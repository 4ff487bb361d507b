"""The hardware abstraction layer: the robot contract, arm specifications, kinematics and the safety core."""
