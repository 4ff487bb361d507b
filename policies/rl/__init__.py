"""Reinforcement learning: skills learned from reward with stable-baselines3, alone or as corrections of a cloned policy."""
