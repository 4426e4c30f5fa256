"""The tokenizer's networks, the discriminator, and the frozen networks that losses look through."""
