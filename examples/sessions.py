"""The twelve sessions of `examples/traces`: a task, files, thoughts and commands, and what the agent answered.

Not here: running the commands and the shapes of the files (`make_traces`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class Session:
    """One task for one agent; `turns` are (thought, command)."""

    name: str
    harness: Literal["mini-swe-agent", "claude-code", "codex"]
    task: str
    files: Mapping[str, str]
    turns: tuple[tuple[str, str], ...]
    answer: str


SESSIONS = (
    Session(
        name="backup-keeps-eight",
        harness="mini-swe-agent",
        task="Our nightly job should keep seven archives, but eight of them are left on the disk. Find out why in"
        " backup.sh and repair it.",
        files={
            "backup.sh": "#!/bin/bash\nset -eu\nkeep=7\ncd archives\nls -1 | sort -r | tail -n +$((keep + 2)) |"
            " xargs -r rm --\n",
            **{f"archives/2025-09-{day:02d}.tar": "x" for day in range(11, 19)},
        },
        turns=(
            ("Let me read the script first.", "cat backup.sh"),
            ("How many archives are there?", "ls -1 archives | wc -l"),
            ("Which lines would tail print for seven? It starts at keep + 2.", "ls -1 archives | sort -r | tail -n +9"),
            ("Nothing. It has to start at line eight.", "sed -i 's/keep + 2/keep + 1/' backup.sh && cat backup.sh"),
            ("Now run it.", "bash backup.sh && ls -1 archives"),
            ("Count them again.", "ls -1 archives | wc -l"),
        ),
        answer="tail began one line too late. It begins at line eight now, and seven archives are left.",
    ),
    Session(
        name="slowest-endpoint",
        harness="mini-swe-agent",
        task="Which endpoint in requests.log takes longest on average? The last column is milliseconds.",
        files={
            "requests.log": "".join(
                f"10:0{n} GET {path} 200 {ms}\n"
                for n, (path, ms) in enumerate(
                    [
                        ("/cart", 120),
                        ("/search", 340),
                        ("/cart", 90),
                        ("/login", 210),
                        ("/search", 410),
                        ("/login", 190),
                        ("/cart", 105),
                        ("/search", 365),
                    ]
                )
            )
        },
        turns=(
            ("Look at the log.", "cat requests.log"),
            ("Which endpoints are there?", "cut -d ' ' -f 3 requests.log | sort | uniq -c"),
            (
                "Average by endpoint.",
                "awk '{s[$3] += $5; n[$3]++} END {for (p in s) printf \"%s %.1f\\n\", p, s[p] / n[p]}' requests.log"
                " | sort",
            ),
            ("Take the largest.", "grep /search requests.log"),
        ),
        answer="/search, with 371.7 ms on average over three requests.",
    ),
    Session(
        name="failed-logins",
        harness="mini-swe-agent",
        task="Somebody tries passwords. Tell me from auth.txt which user had the most failed logins, and from which"
        " address.",
        files={
            "auth.txt": "08:01 failed ann 10.0.0.4\n08:02 ok ben 10.0.0.9\n08:02 failed root 10.0.3.7\n"
            "08:03 failed root 10.0.3.7\n08:05 ok ann 10.0.0.4\n08:06 failed root 10.0.3.7\n"
            "08:09 failed cara 10.0.0.5\n"
        },
        turns=(
            ("See how a line looks.", "head -n 3 auth.txt"),
            ("Only the failures.", "grep failed auth.txt"),
            ("Count by user.", "awk '$2 == \"failed\" {print $3}' auth.txt | sort | uniq -c | sort -rn"),
            ("And the address of root.", "grep 'failed root' auth.txt | cut -d ' ' -f 4 | sort -u"),
            ("Is there a file with blocked addresses?", "cat blocked.txt"),
        ),
        answer="root, three times, from 10.0.3.7. There is no list of blocked addresses yet.",
    ),
    Session(
        name="members-twice",
        harness="mini-swe-agent",
        task="members.txt has people twice, once with a capital letter. Make a list unique.txt with each of them once,"
        " in lower case.",
        files={"members.txt": "Ida\nolaf\nPaul\nida\nquinn\nPAUL\nrosa\n"},
        turns=(
            ("Read the list.", "cat members.txt"),
            ("Lower case first, then sort.", "tr A-Z a-z < members.txt | sort"),
            ("Without repetitions.", "tr A-Z a-z < members.txt | sort -u > unique.txt; cat unique.txt"),
            ("Check the numbers.", "wc -l members.txt unique.txt"),
        ),
        answer="unique.txt has five people; ida and paul stood there twice.",
    ),
    Session(
        name="port-in-readme",
        harness="claude-code",
        task="The README tells people another port than the service listens on. Correct the README.",
        files={
            "README.md": "# Tide tables\n\nStart it with `bin/tides`, then open http://localhost:8080.\n",
            "config/service.ini": "[service]\nname = tides\nport = 8181\nworkers = 2\n",
        },
        turns=(
            ("I look for the port in the configuration.", "grep -rn port config"),
            ("And what the README says.", "grep -n localhost README.md"),
            ("I change it.", "sed -i 's/localhost:8080/localhost:8181/' README.md && grep -n localhost README.md"),
            ("Does 8080 stand anywhere else?", "grep -rn 8080 ."),
        ),
        answer="The README names port 8181 now, which is that of config/service.ini. 8080 stands nowhere else.",
    ),
    Session(
        name="unpaid-invoices",
        harness="claude-code",
        task="How much money is outstanding in invoices.csv, and who owes the most?",
        files={
            "invoices.csv": "number,customer,amount,paid\n101,Alder,250,yes\n102,Birch,480,no\n103,Cedar,75,no\n"
            "104,Birch,120,no\n105,Alder,310,no\n106,Dogwood,95,yes\n"
        },
        turns=(
            ("I read the header and all rows.", "cat invoices.csv"),
            ("The unpaid ones.", "grep ',no$' invoices.csv"),
            ("Their sum.", "awk -F, '$4 == \"no\" {s += $3} END {print s}' invoices.csv"),
            (
                "By customer.",
                "awk -F, '$4 == \"no\" {s[$2] += $3} END {for (c in s) print s[c], c}' invoices.csv | sort -rn",
            ),
        ),
        answer="985 are outstanding. Birch owes the most: 600.",
    ),
    Session(
        name="spelling-of-colour",
        harness="claude-code",
        task="Our style guide wants American spelling. Replace colour by color in the theme folder, but not in the"
        " changelog.",
        files={
            "theme/main.css": "/* colour of links */\na { color: teal; }\n"
            "/* colour of headings */\nh1 { color: navy; }\n",
            "theme/print.css": "/* no colour on paper */\nbody { color: black; }\n",
            "CHANGELOG": "1.1 colour of links changed\n",
        },
        turns=(
            ("Where does it stand?", "grep -rc colour . | sort"),
            ("I replace it in the theme.", "sed -i 's/colour/color/g' theme/*.css; grep -rn colour ."),
            ("What the files look like now.", "cat theme/main.css theme/print.css"),
        ),
        answer="Three comments in theme/ say color now; the changelog is as it was.",
    ),
    Session(
        name="todo-by-author",
        harness="claude-code",
        task="List who has how many TODOs in src, and show the oldest file that has one. TODOs look like TODO(name).",
        files={
            "src/parse.sh": "# TODO(mia): empty input\nread line\n# TODO(leo): tabs\n",
            "src/print.sh": "echo done\n# TODO(mia): colours\n",
            "src/main.sh": ". src/parse.sh\n. src/print.sh\n",
        },
        turns=(
            ("All of them with their places.", "grep -rn TODO src | sort"),
            ("Only the names, counted.", "grep -rho 'TODO([a-z]*)' src | sort | uniq -c"),
            ("Files without one.", "grep -rL TODO src"),
            ("Is there a history that says which file is oldest?", "git log --oneline"),
        ),
        answer="mia has two, leo one. Which file is oldest cannot be said: this is no git repository.",
    ),
    Session(
        name="reading-list",
        harness="codex",
        task="Sort books.txt by year and tell me which decade has the most books.",
        files={
            "books.txt": "1962 Silent Spring\n1984 Neuromancer\n1965 Dune\n1969 Slaughterhouse-Five\n1989 Hyperion\n"
            "1974 The Dispossessed\n1966 Flowers for Algernon\n"
        },
        turns=(
            ("I sort it by the first column.", "sort -n books.txt"),
            ("The decade is the first three digits.", "cut -c 1-3 books.txt | sort | uniq -c"),
            ("The books of the sixties.", "grep ^196 books.txt | sort"),
            ("How many in all?", "wc -l < books.txt"),
        ),
        answer="The sixties have four of the seven books.",
    ),
    Session(
        name="job-cannot-connect",
        harness="codex",
        task="The import job says that it cannot connect to the database since we moved it. Compare its settings with"
        " hosts.txt.",
        files={
            "job/.env": "DB_HOST=db1.internal\nDB_PORT=5432\nDB_PASSWORD=kelp-Harbour-29\n",
            "hosts.txt": "web1.internal 10.1.0.11\nweb2.internal 10.1.0.12\ndb2.internal 10.1.0.21\n",
            "job/run.log": "07:00 connecting to db1.internal\n07:00 error: unknown host\n08:00 connecting to"
            " db1.internal\n08:00 error: unknown host\n",
        },
        turns=(
            ("What does the log say?", "tail -n 2 job/run.log"),
            ("The settings of the job.", "cat job/.env"),
            ("Which database hosts exist?", "grep ^db hosts.txt"),
            ("db1 is gone.", "grep -c db1 hosts.txt"),
            ("I point the job to db2.", "sed -i 's/db1.internal/db2.internal/' job/.env && grep HOST job/.env"),
        ),
        answer="The job asked db1.internal, which is no longer in hosts.txt. DB_HOST is db2.internal now.",
    ),
    Session(
        name="warmest-station",
        harness="codex",
        task="temps.csv has degrees Fahrenheit by station. Which station was warmest on average, in degrees Celsius?",
        files={"temps.csv": "north,50\nsouth,77\nnorth,59\neast,68\nsouth,86\neast,64.4\n"},
        turns=(
            ("The data.", "cat temps.csv"),
            (
                "Means in Celsius.",
                "awk -F, '{s[$1] += ($2 - 32) / 1.8; n[$1]++} END {for (k in s) printf \"%s %.1f\\n\", k, s[k] / n[k]}'"
                " temps.csv | sort",
            ),
            ("The rows of the south.", "grep south temps.csv"),
        ),
        answer="The south, with 27.5 degrees Celsius.",
    ),
    Session(
        name="script-not-executable",
        harness="codex",
        task="bin/greet does not start: permission denied. Repair it and show that it greets Zoe.",
        files={"bin/greet": '#!/bin/bash\necho "Good morning, ${1:-nobody}!"\n'},
        turns=(
            ("I try it.", "bin/greet Zoe"),
            ("Its mode.", "stat -c '%A %n' bin/greet"),
            ("It lacks the x.", "chmod u+x bin/greet && stat -c '%A %n' bin/greet"),
            ("Again.", "bin/greet Zoe"),
            ("And without a name.", "bin/greet"),
        ),
        answer="bin/greet was not executable. It is now, and it says: Good morning, Zoe!",
    ),
)
