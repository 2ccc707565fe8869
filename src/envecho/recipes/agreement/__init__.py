"""One committed batch through every engine and plug-in, and how far each is from the float64 reference.

    case         the batch, the tiny model and the settings            batch.json, from `make_batch`
    reference    loss and gradient in float64, written from the definition
    subjects/    one file per engine or plug-in: the same batch through its real code path
    compare      what a subject measured, as one row of the table

A subject runs in the environment that has its packages; `envecho bench agreement` runs those that are asked for.
"""
