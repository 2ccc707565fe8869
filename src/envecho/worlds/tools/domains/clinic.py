"""A clinic: doctors, patients and appointments at fixed hours.

Not here: what is asked of it (`clinic_tasks`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from envecho.worlds.tools.api import (
    ApiError,
    Filter,
    Tool,
    changed,
    choice,
    created,
    day,
    get_tool,
    list_tool,
    need,
    pattern,
    ref,
    text,
    whole,
)
from envecho.worlds.tools.domain import TODAY, by_name, numbered
from envecho.worlds.tools.names import people
from envecho.worlds.tools.rows import Row, Rows, Table, equals

SPECIALTIES = ("skin", "heart", "eyes")
STATUSES = ("booked", "cancelled", "done")
HOURS = ("09:00", "10:00", "11:00", "14:00", "15:00")
DAYS = ("2031-05-15", "2031-05-16", "2031-05-19", "2031-05-20")
"""The days that may be booked: working days after today."""

REASONS = ("check", "cough", "rash", "back pain", "headache", "blood test", "fever")

SCHEMA = """
CREATE TABLE doctors (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, specialty TEXT NOT NULL,
    room INTEGER NOT NULL UNIQUE);
CREATE TABLE patients (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE, phone TEXT NOT NULL,
    born INTEGER NOT NULL);
CREATE TABLE appointments (id INTEGER PRIMARY KEY AUTOINCREMENT, doctor_id INTEGER NOT NULL REFERENCES doctors (id),
    patient_id INTEGER NOT NULL REFERENCES patients (id), day TEXT NOT NULL, time TEXT NOT NULL, reason TEXT NOT NULL,
    status TEXT NOT NULL CHECK (status IN ('booked', 'cancelled', 'done')));
CREATE UNIQUE INDEX one_patient_at_a_time ON appointments (doctor_id, day, time) WHERE status = 'booked';
"""

_DOCTOR, _PATIENT = ("id", "name", "specialty", "room"), ("id", "name", "phone", "born")
DOCTORS = Table(name="doctors", noun="doctor", columns=_DOCTOR, brief=_DOCTOR)
PATIENTS = Table(name="patients", noun="patient", columns=_PATIENT, brief=("id", "name"))
APPOINTMENTS = Table(
    name="appointments",
    noun="appointment",
    columns=("id", "doctor_id", "patient_id", "day", "time", "reason", "status"),
    brief=("id", "doctor_id", "patient_id", "day", "time", "status"),
)
TABLES = (DOCTORS, PATIENTS, APPOINTMENTS)


def populate(rng: random.Random) -> Mapping[str, list[Row]]:
    """Draw the rows of a clinic; past appointments are done or cancelled."""
    names = people(rng, 13)
    rooms = rng.sample(range(10, 60), 5)
    doctors = numbered(
        rng,
        [
            {"name": f"Dr {name.split()[1]}", "specialty": SPECIALTIES[place % 3], "room": room}
            for place, (name, room) in enumerate(zip(names[:5], rooms, strict=True))
        ],
    )
    patients = numbered(
        rng,
        [
            {"name": name, "phone": f"555-{rng.randrange(1000, 10000)}", "born": rng.randrange(1950, 2021)}
            for name in names[5:]
        ],
    )
    slots = [(doctor["id"], day_, hour) for doctor in doctors for day_ in DAYS for hour in HOURS]
    past = [(doctor["id"], f"2031-05-{number:02d}", hour) for doctor in doctors for number in (6, 7) for hour in HOURS]
    appointments: list[dict[str, Any]] = []
    for place, (doctor, day_, hour) in enumerate((*rng.sample(slots, 13), *rng.sample(past, 5))):
        status = rng.choice(("done", "done", "cancelled")) if place >= 13 else "cancelled" if place >= 11 else "booked"
        appointments.append(
            {
                "doctor_id": doctor,
                "patient_id": rng.choice(patients)["id"],
                "day": day_,
                "time": hour,
                "reason": rng.choice(REASONS),
                "status": status,
            }
        )
    rng.shuffle(appointments)
    return {"doctors": doctors, "patients": patients, "appointments": numbered(rng, appointments)}


def _check_free(rows: Rows, doctor: int, day_: str, hour: str) -> None:
    if day_ <= TODAY:
        raise ApiError(422, f"must be after {TODAY}", field="day")
    if hour not in HOURS:
        raise ApiError(422, f"must be one of {', '.join(HOURS)}", field="time")
    if rows.find("appointments", equals(doctor_id=doctor, day=day_, time=hour, status="booked")):
        raise ApiError(409, f"doctor {doctor} is taken on {day_} at {hour}")


def _book(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    need(rows, DOCTORS, arguments["doctor_id"])
    need(rows, PATIENTS, arguments["patient_id"])
    _check_free(rows, arguments["doctor_id"], arguments["day"], arguments["time"])
    return created(rows, APPOINTMENTS, **arguments, status="booked")


def _booked(rows: Rows, number: int) -> Row:
    appointment = need(rows, APPOINTMENTS, number)
    if appointment["status"] != "booked":
        raise ApiError(409, f"appointment {number} is {appointment['status']}")
    return appointment


def _move(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    appointment = _booked(rows, arguments["appointment_id"])
    _check_free(rows, appointment["doctor_id"], arguments["day"], arguments["time"])
    return changed(rows, APPOINTMENTS, appointment["id"], day=arguments["day"], time=arguments["time"])


def _cancel(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    appointment = _booked(rows, arguments["appointment_id"])
    return changed(rows, APPOINTMENTS, appointment["id"], status="cancelled")


def _finish(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    appointment = _booked(rows, arguments["appointment_id"])
    return changed(rows, APPOINTMENTS, appointment["id"], status="done")


def _free_times(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    doctor = need(rows, DOCTORS, arguments["doctor_id"])
    taken = rows.find("appointments", equals(doctor_id=doctor["id"], day=arguments["day"], status="booked"))
    hours = {row["time"] for row in taken}
    return {"doctor_id": doctor["id"], "day": arguments["day"], "free": [hour for hour in HOURS if hour not in hours]}


def _set_phone(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    patient = need(rows, PATIENTS, arguments["patient_id"])
    return changed(rows, PATIENTS, patient["id"], phone=arguments["phone"])


def _add_patient(rows: Rows, arguments: Mapping[str, Any]) -> dict[str, Any]:
    if rows.find("patients", equals(name=arguments["name"])):
        raise ApiError(409, "a patient of this name exists")
    return created(rows, PATIENTS, **arguments)


_PHONE = pattern(r"[0-9]{3}-[0-9]{4}", "555-1234", "555-4040", "555-9876")
_TIME = pattern(r"[0-9]{2}:[0-9]{2}", *HOURS, "12:30")


def _appointment_tool(name: str, description: str, run: Any, **more: Any) -> Tool:
    return Tool(
        name=name,
        description=description,
        parameters={"appointment_id": ref("appointments"), **more},
        run=run,
        shows="appointments",
        writes=("appointments",),
    )


TOOLS = by_name(
    list_tool(
        DOCTORS,
        "list_doctors",
        "List doctors.",
        filters={
            "query": Filter(text(column="doctors.name"), "name", "contains"),
            "specialty": Filter(choice(*SPECIALTIES), "specialty"),
        },
        sorts=("room",),
    ),
    get_tool(DOCTORS),
    list_tool(
        PATIENTS,
        "list_patients",
        "List patients.",
        filters={"query": Filter(text(column="patients.name"), "name", "contains")},
    ),
    get_tool(PATIENTS),
    Tool(
        name="add_patient",
        description="Register a patient.",
        parameters={
            "name": text("Olga Stone", "Peter Lake", "Sara Field"),
            "phone": _PHONE,
            "born": whole(1900, 2031, 1948, 1977, 1990, 2015),
        },
        run=_add_patient,
        shows="patients",
        writes=("patients",),
        creates=True,
    ),
    Tool(
        name="set_phone",
        description="Change the phone number of a patient.",
        parameters={"patient_id": ref("patients"), "phone": _PHONE},
        run=_set_phone,
        shows="patients",
        writes=("patients",),
    ),
    list_tool(
        APPOINTMENTS,
        "list_appointments",
        "List appointments.",
        filters={
            "doctor_id": Filter(ref("doctors"), "doctor_id"),
            "patient_id": Filter(ref("patients"), "patient_id"),
            "day": Filter(day(*DAYS), "day"),
            "status": Filter(choice(*STATUSES), "status"),
        },
        sorts=("day",),
    ),
    get_tool(APPOINTMENTS),
    Tool(
        name="list_free_times",
        description="Show the hours at which a doctor is free on a day.",
        parameters={"doctor_id": ref("doctors"), "day": day(*DAYS)},
        run=_free_times,
    ),
    Tool(
        name="book_appointment",
        description="Book an appointment.",
        parameters={
            "doctor_id": ref("doctors"),
            "patient_id": ref("patients"),
            "day": day(*DAYS, TODAY),
            "time": _TIME,
            "reason": text(*REASONS),
        },
        run=_book,
        shows="appointments",
        writes=("appointments",),
        creates=True,
    ),
    _appointment_tool(
        "move_appointment", "Move a booked appointment to another day and time.", _move, day=day(*DAYS), time=_TIME
    ),
    _appointment_tool("cancel_appointment", "Cancel a booked appointment.", _cancel),
    _appointment_tool("finish_appointment", "Mark a booked appointment as done.", _finish),
)
