"""The server that strangers connect to: who is accepted, for how long, and what they may hold."""
