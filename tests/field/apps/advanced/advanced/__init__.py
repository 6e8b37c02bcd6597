"""The pattern of advanced-pytorch: a head that stays with the client, a strategy with its own start."""
