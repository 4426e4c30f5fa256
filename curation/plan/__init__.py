"""The plan: a URL list becomes shards of rows, deterministic and in flat memory.

plan.py           the list into plan/*.parquet and receipts, all or nothing
table.py          a batch of the list as a table of planned rows
planned_rows.py   one row: its image_id, or why it has none of its own
url_list.py       parquet, csv and txt lists, read in batches
list_columns.py   the list's column types, roles and dotted names
urls.py           canonical URLs and image_ids
duplicates.py     repeated URLs, found on disk
row_progress.py   rows so far, for people
"""
