"""One paid piece of work, from its request to its settlement: where serving meets the market."""
