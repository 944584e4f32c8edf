"""Wire messages, envelopes, receipts and their rules. No I/O, no clock, no randomness."""
