"""Paying by sessions of JobMarketplace: a deposit for each, checkpoints, the rest comes back."""
