"""Doors that only translate: of a host (`http`, `websocket`), and of an S5 node (`s5`)."""
