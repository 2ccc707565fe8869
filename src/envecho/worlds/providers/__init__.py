"""Sandboxes that others run: a served world inside each, started for an episode or a worker and stopped with it."""
