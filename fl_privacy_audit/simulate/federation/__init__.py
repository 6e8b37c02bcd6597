"""A small image federation for Flower, audited: the example app, and what the demo runs."""
