"""Training and judging image tokenizers on annotated manifests; no Ray, no detector, no OpenCV."""
