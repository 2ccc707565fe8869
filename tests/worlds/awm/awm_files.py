"""Two small scenarios in the Agent World Model's files, written by hand: notes and rooms."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

NOTES_CODE = """
import os
from fastapi import FastAPI, Query
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Column, Integer, String, create_engine
from sqlalchemy.orm import declarative_base, sessionmaker

engine = create_engine(os.environ["DATABASE_PATH"])
SessionLocal = sessionmaker(bind=engine)
Base = declarative_base()


class Note(Base):
    __tablename__ = "notes"
    id = Column(Integer, primary_key=True)
    title = Column(String, nullable=False)


Base.metadata.create_all(engine)
app = FastAPI(title="Notes")
print("the scenario prints to stdout")


class NoteOut(BaseModel):
    model_config = ConfigDict(from_attributes=True)
    id: int = Field(..., description="Number", example=1)
    title: str = Field(..., description="Title", example="milk")


class TitleIn(BaseModel):
    title: str = Field(..., description="Title", example="milk")


@app.get("/notes", operation_id="list_notes", response_model=list[NoteOut], summary="List notes")
async def list_notes(limit: int = Query(10, ge=1, le=50)):
    session = SessionLocal()
    found = [NoteOut.model_validate(note) for note in session.query(Note).order_by(Note.id).limit(limit)]
    session.close()
    return found


@app.put("/notes/{note_id}", operation_id="rename_note", response_model=NoteOut, summary="Rename a note")
async def rename_note(note_id: int, body: TitleIn):
    session = SessionLocal()
    note = session.get(Note, note_id)
    note.title = body.title
    session.commit()
    found = NoteOut.model_validate(note)
    session.close()
    return found


if __name__ == "__main__":
    import uvicorn
    uvicorn.run(app, host="127.0.0.1", port=8000)
"""

ROOMS_CODE = """
import os
import sqlite3
from fastapi import FastAPI, HTTPException

PATH = os.environ["DATABASE_PATH"].removeprefix("sqlite:///")
app = FastAPI(title="Rooms")


@app.get("/rooms/{room_id}", operation_id="get_room", summary="Show a room")
async def get_room(room_id: int) -> dict:
    row = sqlite3.connect(PATH).execute("SELECT id, seats FROM rooms WHERE id = ?", (room_id,)).fetchone()
    if row is None:
        raise HTTPException(404, "no such room")
    return {"id": row[0], "seats": row[1]}


@app.get("/exists", operation_id="exists", summary="Look for a file")
async def exists(path: str) -> dict:
    return {"exists": os.path.exists(path)}


@app.post("/bad/{kind}", operation_id="misbehave", summary="Do what no service should")
async def misbehave(kind: str) -> dict:
    if kind == "sleep":
        import time
        time.sleep(60)
    if kind == "exit":
        os._exit(3)
    if kind == "network":
        import socket
        socket.create_connection(("192.0.2.1", 80), timeout=2)
    if kind == "secrets":
        return {"home": os.listdir(os.environ["HOME"]), "uid": os.getuid()}
    if kind == "write":
        open("/usr/written", "w")
    if kind == "fork":
        for _ in range(200):
            if os.fork() == 0:
                import time
                time.sleep(30)
                os._exit(0)
    if kind == "deaf":
        import signal
        import threading
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGSTOP)).start()
    if kind == "memory":
        return {"size": len(bytearray(1 << 33))}
    if kind == "disk":
        with open("big", "wb") as file:
            for _ in range(200):
                file.write(bytes(1 << 20))
    return {"text": "x" * 40_000} if kind == "flood" else {}
"""

RENAMED = """
def verify_task_completion(initial_db_path: str, final_db_path: str, final_answer: str | None = None) -> dict:
    import sqlite3
    def titles(path):
        return dict(sqlite3.connect(path).execute("SELECT id, title FROM notes"))
    before, after = titles(initial_db_path), titles(final_db_path)
    return {"result": "complete" if after == {**before, 1: "oat milk"} else "others"}
"""
COUNTED = """
def verify_task_completion(initial_db_path, final_db_path, final_answer=None):
    return {"result": "complete" if "2" in (final_answer or "") else "others"}
"""
FOR_A_JUDGE = """
def verify_task(initial_db_path: str, final_db_path: str) -> dict:
    return {"num_rooms": sqlite3.connect(final_db_path).execute("SELECT count(*) FROM rooms").fetchone()[0]}
"""
BROKEN = "def verify_task_completion(initial_db_path, final_db_path):\n    return 1 / 0\n"

TASKS = {
    "Notes App 1": ["Rename the note with the title milk to oat milk.", "How many notes are there?"],
    "rooms_2": ["Look at room 4.", "Look at room 5.", "Look at room 6."],
}


def lines(file: Path, *documents: Any) -> None:
    """Write JSON lines."""
    file.write_text("".join(json.dumps(document) + "\n" for document in documents), encoding="utf-8")


def write_scenarios(folder: Path) -> Path:
    """Write both scenarios: one with a database file, one whose database is made of schema and sample data."""
    (folder / "databases").mkdir()
    connection = sqlite3.connect(folder / "databases" / "notes.db")
    connection.execute("CREATE TABLE notes (id INTEGER PRIMARY KEY, title VARCHAR NOT NULL)")
    connection.execute("INSERT INTO notes VALUES (1, 'milk'), (2, 'bread')")
    connection.commit()
    connection.close()
    environments = folder / "gen_envs.jsonl"
    lines(
        environments,
        {"scenario": "Notes App 1", "db_path": "databases/notes.db", "full_code": NOTES_CODE},
        {"scenario": "rooms_2", "db_path": "./outputs/databases/rooms_2.db", "full_code": ROOMS_CODE},
    )
    lines(folder / "gen_tasks.jsonl", *({"scenario": name, "tasks": tasks} for name, tasks in TASKS.items()))
    schema = {"tables": [{"name": "rooms", "ddl": "CREATE TABLE rooms (id INTEGER PRIMARY KEY, seats INTEGER)"}]}
    lines(folder / "gen_db.jsonl", {"scenario": "rooms_2", "db_schema": schema})
    inserts = ["INSERT INTO rooms VALUES (4, 12)", "INSERT INTO rooms VALUES (4, 13)", "INSERT INTO nothing VALUES (1)"]
    sample = {"tables": [{"table_name": "rooms", "insert_statements": inserts}]}
    lines(folder / "gen_sample.jsonl", {"scenario": "rooms_2", "sample_data": sample})
    lines(
        folder / "gen_verifier.pure_code.jsonl",
        {"scenario": "notes_app_1", "task_idx": 0, "verification": {"code": RENAMED}},
        {"scenario": "Notes App 1", "task_idx": 1, "verification": {"code": COUNTED}},
        {"scenario": "rooms_2", "task_idx": 1, "verification": {"code": BROKEN}},
    )
    lines(folder / "gen_verifier.jsonl", {"scenario": "rooms_2", "task_idx": 0, "verification": {"code": FOR_A_JUDGE}})
    return environments
