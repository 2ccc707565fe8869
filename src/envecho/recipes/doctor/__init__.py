"""What is wrong with a file of trajectories, found before a GPU hour is spent on it."""

from envecho.recipes.doctor.examine import DoctorOptions, examine
from envecho.recipes.doctor.findings import KINDS, Example, Finding, Level
from envecho.recipes.doctor.report import DoctorReport

__all__ = ["KINDS", "DoctorOptions", "DoctorReport", "Example", "Finding", "Level", "examine"]
