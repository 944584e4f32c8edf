"""A session between host and renter as two state machines, without I/O and without a clock."""
