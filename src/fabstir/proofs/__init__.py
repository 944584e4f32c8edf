"""Evidence for claims: the port in `proofs.prover`, and one module for each way to make it."""
