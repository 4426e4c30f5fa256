"""Losses as pure functions: tensors in, tensors out; no logging, no step counters, no state."""
