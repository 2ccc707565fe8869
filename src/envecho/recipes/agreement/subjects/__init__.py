"""The engines and plug-ins that are measured, by name; each file has `measure(model, setting, work) -> list[Measured]`.

`model` is the folder of the tiny model, `work` an empty folder. A subject returns no row for a setting that its trainer
cannot express, and raises ConfigError where its packages are absent.
"""
