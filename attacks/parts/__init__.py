"""What recipes are made of: starts, labels, replays, distances, priors."""
