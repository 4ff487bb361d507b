"""Calibration of an arm: from a pose in the hand and a sweep of every joint to the numbers of a rig file."""
