"""Policies made elsewhere: LeRobot checkpoints, and policies behind a network connection."""
