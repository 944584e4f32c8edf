"""The doors of our own S5 node."""

from fabstir.api.s5.app import create_s5_app
from fabstir.api.s5.services import Limits, S5Services

__all__ = ["Limits", "S5Services", "create_s5_app"]
