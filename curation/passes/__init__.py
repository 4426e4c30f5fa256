"""Further passes of fetch: rows fetched again, beside what stands.

passes.py    a further pass is planned
fetched.py   the first pass overlaid by later ones
retry.py     failed rows into a further pass, by their codes
"""
