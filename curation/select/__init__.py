"""Subsets by SQL, with a lock and sampling weights.

select.py   from datasets and a predicate to a subset and its lock
query.py    DuckDB: the predicate parsed, bounded and locked down
write.py    the subset's rows, read from their manifests and written
"""
