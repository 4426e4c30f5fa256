"""The fetch stage: img2dataset's download loop under a safe opener, original bytes into tar.

config.py         limits, politeness, policies
opener.py         the urllib opener: one URL from its robots.txt to one record in the log
web.py            what a worker keeps from shard to shard: network, rules of hosts
retry.py          which failures are tried again, after which pauses
hops.py           redirects, one by one
body.py           a body under a byte cap and a least rate
network.py        one request: its turn, its connection, its answer
hosts.py          how many requests at a time to a host, how often, and when to leave it
pool.py           idle connections
connection.py     connections to a checked address, under a total deadline
deadline.py       a point in time that several waits share
resolution.py     host names to checked addresses, remembered
addresses.py      which addresses may be contacted
once.py           values that are made once for all threads, and kept for a time
robots.py         robots.txt as RFC 9309 reads it
robots_cache.py   robots.txt of each host
optout.py         X-Robots-Tag and Content-Usage headers
content_usage.py  Content-Usage statements
failure.py        the one exception of a fetch
log.py            what happened with each URL
closing.py        the deadline of a shard
passthrough.py    what img2dataset calls: probe the header, keep the bytes
mismatch.py       what images look like that a hash mismatch keeps out
reencode.py       smaller images, where that is asked for
tar.py            a tar whose bytes depend on its members alone
rows.py           from what happened to one row per planned row
stage.py          FetchStage: a shard from plan to tar and manifest
"""
