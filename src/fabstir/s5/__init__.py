"""Content-addressed storage on S5: formats, a store, peers, portals, and a node made of them."""
