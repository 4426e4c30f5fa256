"""Images removed from a published dataset on request.

tombstone.py    the removal, step by step, survivable at each
tombstones.py   the dataset's list of removed images, and what a removed row says
find.py         which rows an id, a URL or a copy means
shard.py        one shard rewritten without them
"""
