"""What every side of the web needs: where strangers may send this program, and getting there."""
