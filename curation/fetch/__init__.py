"""The fetch stage: img2dataset's download loop under a safe opener, original bytes into tar.

addresses.py    which addresses may be contacted
connection.py   connections to a checked address, under a total deadline
opener.py       the urllib opener: redirects, caps, opt-out, retries, one record per URL
optout.py       X-Robots-Tag
passthrough.py  what img2dataset calls: probe the header, keep the bytes
tar.py          a tar whose bytes depend on its members alone
stage.py        FetchStage: a shard from plan to tar and manifest
"""
