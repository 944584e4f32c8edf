"""The composition root of a host (`build`), and what it can be asked."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fabstir.node.host_status import HostStatus
    from fabstir.node.market import HostMarket, open_market
    from fabstir.node.status import read_status, withdraw_all
else:
    from fabstir.primitives.lazy import lazy_names

    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "host_status": ["HostStatus"],
            "market": ["HostMarket", "open_market"],
            "status": ["read_status", "withdraw_all"],
        },
    )

__all__ = ["HostMarket", "HostStatus", "open_market", "read_status", "withdraw_all"]
