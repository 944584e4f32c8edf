"""The chain: RPC, contracts, events, transactions, keys, and a local devnet."""
