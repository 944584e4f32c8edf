"""The formats of S5: pure, so that node, SDK and browser read and write the same bytes."""
