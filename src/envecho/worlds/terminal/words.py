"""The vocabulary that boxes are drawn from; plain words, so that a small model spells them in one or two tokens."""

from __future__ import annotations

SERVICES = tuple(
    "billing cart search login media orders stock mail chat maps video sync audit quota token fraud ledger pricing "
    "shipping refund profile catalog payment invoice session gateway scheduler archive export import".split()
)
PEOPLE = tuple(
    "anna bruno carla david elena felix grace henry irene james karen louis maria nina oscar paula quinn rosa simon "
    "tanya ursula victor wendy xavier yusuf zoe amir bella chen dora emil fatima george hanna ivan julia".split()
)
TEAMS = tuple("red blue green amber core edge infra data web mobile risk growth night".split())
LEVELS = ("INFO", "WARN", "ERROR")
COMPONENTS = tuple(
    "db cache queue disk proxy worker router parser loader socket thread index kernel broker mirror replica".split()
)
EVENTS = tuple(
    "timeout started stopped refused retry slow full lost ready locked dropped expired missing restored failed "
    "connected paused flushed blocked moved".split()
)
LOG_NAMES = tuple("main app server worker agent system core daemon service node front back".split())
WEB_FOLDERS = tuple("web www public proxy edge site front net".split())
METHODS = ("GET", "POST", "PUT", "DELETE")
ROUTES = tuple("home cart search login users items pay help about admin stats files health report price".split())
STATUSES = ("200", "201", "301", "404", "500", "503")
ITEMS = tuple("lamp desk chair book phone cable mouse paper clock radio table glass plant shirt watch".split())
TABLES = tuple("sales orders deals receipts bookings carts charges".split())
JOIN_FOLDERS = tuple("data db tables crm team export".split())
STATES = tuple("up down idle busy stale draining starting degraded".split())
SETTINGS = tuple(
    "host mode region level retries workers cache buffer limit backup format policy color scope driver zone batch "
    "queue theme".split()
)
VALUES = tuple(
    "local remote strict fast slow green blue auto manual basic full none east west north south json plain daily "
    "weekly high low debug safe".split()
)
SCRIPTS = tuple("check probe verify restart deploy status cleanup".split())
