"""From annotated manifests to training batches; no Ray, no detector, no OpenCV."""
