"""Ways to be paid: one package each, behind the port of `rails.rail`."""
