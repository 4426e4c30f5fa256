"""Tests; a package by this file, since libraries install a top-level `tests` of their own."""
