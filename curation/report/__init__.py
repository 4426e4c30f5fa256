"""One self-contained HTML page about a dataset.

report.py      the page, from the facts and the template
facts.py       the numbers, in one pass over the manifests
integrity.py   repeated contents, and mismatches of expected hashes
charts.py      histograms as plain numbers
timeline.py    which worker did what when
sheet.py       the contact sheet
templates/     the page and its style
"""
