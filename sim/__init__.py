"""The PyBullet world that fulfils the robot contract: scenes, tasks, scripted experts, gymnasium environments."""
