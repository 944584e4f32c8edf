"""What every HTTP face needs: the server, the guards, the error body, and safe ways out."""
