"""Blobs on their way here and elsewhere: fetching, resumable uploads, copies kept."""
