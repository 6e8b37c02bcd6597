"""The frontier: how the leakage of a model changes around one's own setting."""
