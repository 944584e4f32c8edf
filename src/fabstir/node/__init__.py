"""The host: its composition root, and what it does on the chain for itself."""

from fabstir.node.build import Host, open_host
from fabstir.node.control import ask_running_host
from fabstir.node.market import HostMarket, open_market
from fabstir.node.registration import Confirm, HostEntry, RegistrationPlan
from fabstir.node.status import HostStatus, read_status, withdraw_all

__all__ = [
    "Confirm",
    "Host",
    "HostEntry",
    "HostMarket",
    "HostStatus",
    "RegistrationPlan",
    "ask_running_host",
    "open_host",
    "open_market",
    "read_status",
    "withdraw_all",
]
