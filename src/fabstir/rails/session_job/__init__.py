"""Rail 1: era-C sessions of JobMarketplace, proven by checkpoints and settled by its contract."""
