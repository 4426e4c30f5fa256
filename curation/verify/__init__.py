"""Everything a dataset promises, checked against its bytes.

verify.py     the checks in order, shard by shard
files.py      receipts, sizes, hashes, seals, files that nobody knows
images.py     tar members against the rows that name them
rows.py       rows against the plan, the specification and the geometry
removals.py   what was removed on request is gone everywhere
findings.py   what is said of each thing that is off
"""
