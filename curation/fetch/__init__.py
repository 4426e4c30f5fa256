"""The fetch stage: img2dataset's download loop under a safe opener, original bytes into tar.

config.py       limits, politeness, policies
addresses.py    which addresses may be contacted
connection.py   connections to a checked address, under a total deadline
handlers.py     urllib handlers: connections, statuses, redirects
opener.py       the urllib opener: caps, opt-out, retries, one record per URL
optout.py       X-Robots-Tag
failure.py      the one exception of a fetch
log.py          what happened with each URL
passthrough.py  what img2dataset calls: probe the header, keep the bytes
tar.py          a tar whose bytes depend on its members alone
rows.py         from what happened to one row per planned row
stage.py        FetchStage: a shard from plan to tar and manifest
"""
