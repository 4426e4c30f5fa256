"""Text and face regions of fetched images: detectors behind two Protocols, and the stage."""
