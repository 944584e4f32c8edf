"""The owner's identity, the node's secrets, others' accounts here and our accounts elsewhere."""
