"""Content-addressed storage on S5: its formats, a store, peers, portals, and the node of them."""
