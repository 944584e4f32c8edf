"""Loaded first, so that libp2p is imported by us, without its warnings."""

import fabstir.p2p as fabstir_p2p

assert fabstir_p2p
