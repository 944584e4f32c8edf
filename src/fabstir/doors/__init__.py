"""Doors that only translate: a session's frames, HTTP, errors to what their clients read."""
