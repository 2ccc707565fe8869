"""ECHO inside the trainers that people already run: one folder per trainer.

A plug-in takes masks and weights from envecho and adds the environment term to the trainer's own loss; data, devices,
sampling and the policy term stay the trainer's. Not here: a training loop of our own (`envecho.training`).
"""
