"""Planners behind a network: any OpenAI-compatible endpoint, and the chain that takes over when one does not answer."""
