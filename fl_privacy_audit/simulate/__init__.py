"""Federations on one machine: the demo, and sweeps over defences."""
