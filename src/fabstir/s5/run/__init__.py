"""The composition root of a storage node, and what can be asked of it while it runs."""
