"""Learned low-level policies: data, networks, training, evaluation and the runtime that carries a goal out."""
