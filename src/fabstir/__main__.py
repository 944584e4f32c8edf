"""`python -m fabstir`."""

from fabstir.cli import main

main()
