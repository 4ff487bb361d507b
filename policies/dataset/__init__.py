"""Episodes on disk in the LeRobotDataset v3.0 layout: ``writer`` records them, ``reader`` gives them back."""
