"""Doors that only translate."""

from fabstir.api.http import HttpServices, create_app
from fabstir.api.websocket import WebSocketDoor

__all__ = ["HttpServices", "WebSocketDoor", "create_app"]
