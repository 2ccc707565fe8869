"""Tokenised trajectories as the rows that released trainers take: one file per trainer, its own names and types.

No trainer is imported: a row is plain JSON values. Not here: which rows a job writes (`envecho.recipes.export`), and
what a token is worth (`envecho.objective`).
"""

from envecho.tokens.trainers.response import Response, response_of

__all__ = ["Response", "response_of"]
