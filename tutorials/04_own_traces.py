"""Tutorial 4: traces of your own.

    python tutorials/04_own_traces.py

Agents leave traces: chat logs, sessions of coding agents, dumps of other trainers. They need no reward to be worth
something, since the world's answers are in them. Here is the way from a folder of such files to pools that can be
trained on: import, look, ask the doctor, split. `docs/getting-started.md` goes the same way on the command line.
"""

import json
import tempfile
from collections import Counter
from pathlib import Path

from envecho import read_trajectories, write_trajectories
from envecho.formats import ImportOptions, ImportReport, import_traces
from envecho.recipes.doctor import DoctorOptions, examine
from envecho.recipes.showing import Viewer
from envecho.recipes.split import SplitPlan, split_store

ORDERS = [("Ada", 3), ("Bo", 7), ("Cleo", 2), ("Dan", 9), ("Eve", 5), ("Finn", 4), ("Gus", 8), ("Hal", 6)]


def chat(name: str, count: int) -> dict[str, object]:
    """Return an episode as OpenAI chat messages, the shape that most logs have."""
    call = {"name": "orders", "arguments": json.dumps({"customer": name})}
    return {
        "messages": [
            {"role": "user", "content": f"How many orders has {name}, and is the last one of them paid?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [{"id": "call-1", "type": "function", "function": call}],
            },
            {"role": "tool", "tool_call_id": "call-1", "content": json.dumps({"customer": name, "orders": count})},
            {"role": "assistant", "content": f"{name} has {count} orders; I do not know who paid."},
        ]
    }


def mini_swe_agent(name: str, count: int) -> dict[str, object]:
    """Return an episode as mini-swe-agent stores it; its harness wraps what the command printed."""
    lines = "".join(f"order {number} of {name}\n" for number in range(count))
    observation = f"<returncode>0</returncode>\n<output>\nDB_PASSWORD=sea-{name}-47x\n{lines}</output>"
    return {
        "trajectory_format": "mini-swe-agent-1",
        "info": {"exit_status": "Submitted"},
        "messages": [
            {"role": "system", "content": "You type bash commands."},
            {"role": "user", "content": f"Show the settings and all orders of {name}, then stop."},
            {"role": "assistant", "content": f"```bash\ncat .env orders/{name.lower()}\n```"},
            {"role": "user", "content": observation},
            {"role": "assistant", "content": "```bash\necho done\n```"},
            {"role": "user", "content": "<returncode>0</returncode>\n<output>\ndone\n</output>"},
        ],
    }


with tempfile.TemporaryDirectory() as temporary:
    folder = Path(temporary)

    # --- 1. A folder of foreign files: chat logs as JSON lines, and a file per session of another harness ------------
    traces = folder / "traces"
    traces.mkdir()
    (traces / "log.jsonl").write_text("".join(json.dumps(chat(*order)) + "\n" for order in ORDERS))
    for number, order in enumerate(ORDERS):
        (traces / f"run-{number}.traj.json").write_text(json.dumps(mini_swe_agent(*order)))
    (traces / "broken.json").write_text('{"messages": [{"role": "user", "content": "cut o')

    # --- 2. Import. Formats are known by their content; what cannot be read is named, and the rest is read -----------
    #
    # `calls_as_text` writes tool calls into the answers' text: the chat template of SmolLM2 knows no tools.

    report = ImportReport()
    episodes = list(import_traces([traces], report, options=ImportOptions(calls_as_text=True)))
    print(f"{len(episodes)} episodes: {dict(report.formats)}")
    for problem in report.problems:
        print(f"not read: {Path(problem.file).name}: {problem.message}")
    assert len(episodes) == 2 * len(ORDERS)
    assert len(report.problems) == 1

    # Every character has a source. The harness's wrapper is no word of the world, and a secret is nobody's target.
    example = next(episode for episode in episodes if "traj" in episode.id)
    print("\nwho wrote the answer to the first command:")
    for segment in example.messages[3].segments:
        print(f"    {segment.source.value:10} {segment.source.role.value:11} {segment.text!r}"[:100])
    text = "".join(message.content for message in example.messages)
    assert "sea-Ada" not in text
    assert "[redacted:assigned-secret]" in text

    store = folder / "traces.parquet"
    write_trajectories(store, episodes)

    # --- 3. The doctor: what is wrong with the file, before anything is trained on it --------------------------------
    found = examine(store, DoctorOptions(model="smollm2-135m"))
    print("\nthe doctor:")
    for finding in found.findings:
        print(f"    {finding.level.value:8} {finding.name}")
    assert not found.has_errors
    assert "redacted_text" in {finding.name for finding in found.findings}

    # --- 4. Split: what is held out shares no task and no near-duplicate with what is trained ------------------------
    document = split_store([store], folder / "data", SplitPlan(shares={"held_out": 0.25}, by="task"))
    for name, facts in document["splits"].items():
        print(f"{name:9} {facts['num_trajectories']:2} episodes in {facts['num_groups']} groups")
    train, held_out = (
        {episode.task_id for episode in read_trajectories(folder / "data" / f"{name}.parquet")}
        for name in ("train", "held_out")
    )
    assert held_out
    assert not train & held_out

    # --- 5. And one look at what a model would see -------------------------------------------------------------------
    (shown,) = Viewer("smollm2-135m").show(example).views
    roles = Counter(token.source.role.value for token in shown.view.tokens)
    assert shown.trained is not None
    num_trained = int((shown.trained > 0).sum())
    print(f"\ntokens of one episode by role: {dict(roles)}; {num_trained} of them are trained")
    assert num_trained == roles["env_output"]
