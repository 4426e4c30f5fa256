"""Offline curation on Ray: download, detect text and faces once, write manifests."""
