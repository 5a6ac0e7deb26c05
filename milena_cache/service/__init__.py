"""What every protocol of the node shares. `status`: readiness, degradation, and samples by name."""
