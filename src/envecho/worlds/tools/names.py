"""The vocabulary that databases are drawn from: plain words, so that a small model spells them in few tokens.

Not here: which rows there are (`domains`).
"""

from __future__ import annotations

import random

_FIRST = """
Anna Bruno Carla David Elena Felix Grace Henry Irene James Karen Louis Maria Nina Oscar Paula Quinn Rosa Simon Tanya
Ursula Victor Wendy Xavier Yusuf Zoe Amir Bella Chen Dora Emil Fatima George Hanna Ivan Julia
"""
_LAST = """
Baker Carter Diaz Evans Fischer Garcia Hill Ivanov Jones Kim Lopez Meyer Novak Olsen Patel Reed Silva Turner Usman Vega
Walker Young Zhang Adams Brown Costa Drake Ellis Ford Green
"""
_CITIES = "Berlin Boston Cairo Denver Dublin Geneva Lagos Lima Lyon Madrid Milan Oslo Paris Porto Rome Tokyo"

FIRST_NAMES, LAST_NAMES, CITIES = tuple(_FIRST.split()), tuple(_LAST.split()), tuple(_CITIES.split())


def people(rng: random.Random, count: int) -> list[str]:
    """Draw full names; no two share a first or a last name, so that one word finds one person."""
    firsts, lasts = rng.sample(FIRST_NAMES, count), rng.sample(LAST_NAMES, count)
    return [f"{first} {last}" for first, last in zip(firsts, lasts, strict=True)]


def mail(name: str) -> str:
    """Return the e-mail address of a person."""
    return f"{name.split()[0].lower()}@example.org"
