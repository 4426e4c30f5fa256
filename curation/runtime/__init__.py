"""Runners: what carries stages over shards, in this process or on a Ray cluster."""
