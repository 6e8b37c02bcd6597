"""The pattern of quickstart-pytorch: a plain epoch of SGD with momentum."""
