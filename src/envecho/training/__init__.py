"""The training loop: configuration, schedules, metrics, checkpoints, resume."""
