"""Serving: who may ask, what the model sees, answers as events, the sessions that are live."""
