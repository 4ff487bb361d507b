"""Policies over a network, in openpi's message format: what goes over the wire, and the server."""
