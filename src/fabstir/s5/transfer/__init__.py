"""Moving blobs: fetching, resumable uploads, and copies kept elsewhere."""
