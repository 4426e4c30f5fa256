"""Text rendered with real fonts on real backgrounds, as an ordinary dataset with exact boxes."""
