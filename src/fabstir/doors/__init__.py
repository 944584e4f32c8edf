"""Doors: a session over any stream of frames, the transports that make streams, HTTP routes."""
