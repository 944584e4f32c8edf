"""Ids, units, errors, canonical encodings. No I/O; nothing here imports anything else of ours."""
