"""A Flower quick start, audited."""
