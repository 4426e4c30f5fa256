"""Frozen networks: read from files, never trained, differentiable to their input."""
