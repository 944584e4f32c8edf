"""The doors of our own S5 node."""

from fabstir.s5.door.app import create_s5_app
from fabstir.s5.door.services import Limits, S5Services

__all__ = ["Limits", "S5Services", "create_s5_app"]
