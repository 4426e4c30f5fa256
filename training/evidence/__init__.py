"""The evidence: one base, six continuations that differ in nothing but the loss, judged alike."""
