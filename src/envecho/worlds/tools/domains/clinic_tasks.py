"""What is asked of the clinic. Not here: its rows and tools (`clinic`)."""

from __future__ import annotations

import random

from envecho.worlds.tool_calls import CallText
from envecho.worlds.tools.domain import Domain, Draft, Statement, Template, call
from envecho.worlds.tools.domains import clinic
from envecho.worlds.tools.picking import last_name, other, pick, single
from envecho.worlds.tools.rows import Row, SqlRows, equals

_INSERT = "INSERT INTO appointments (doctor_id, patient_id, day, time, reason, status) VALUES (?, ?, ?, ?, ?, 'booked')"


def _find_patient(patient: Row) -> CallText:
    return call("list_patients", query=last_name(patient["name"]))


def _find_doctor(doctor: Row) -> CallText:
    return call("list_doctors", query=doctor["name"])


def _set(appointment: Row, **values: str) -> Statement:
    sets = ", ".join(f"{column} = ?" for column in values)
    return f"UPDATE appointments SET {sets} WHERE id = ?", (*values.values(), appointment["id"])


def _one_booked(rng: random.Random, rows: SqlRows) -> tuple[Row, Row, tuple[CallText, ...]] | None:
    """Draw a patient with exactly one booked appointment, the appointment, and the calls that find it."""
    found: list[tuple[Row, Row, tuple[CallText, ...]]] = []
    for patient in rows.find("patients"):
        appointment = single(rows.find("appointments", equals(patient_id=patient["id"], status="booked")))
        if appointment is not None:
            search = (_find_patient(patient), call("list_appointments", patient_id=patient["id"], status="booked"))
            found.append((patient, appointment, search))
    return pick(rng, found)


def _free(rows: SqlRows, doctor: Row, day: str) -> list[str]:
    taken = rows.find("appointments", equals(doctor_id=doctor["id"], day=day, status="booked"))
    return [hour for hour in clinic.HOURS if hour not in {row["time"] for row in taken}]


def _cancel(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booked(rng, rows)
    if drawn is None:
        return None
    patient, appointment, search = drawn
    return Draft(
        instruction=f"{patient['name']} cannot come. Cancel the booked appointment.",
        calls=(*search, call("cancel_appointment", appointment_id=appointment["id"])),
        changes=(_set(appointment, status="cancelled"),),
    )


def _finish(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booked(rng, rows)
    if drawn is None:
        return None
    patient, appointment, search = drawn
    return Draft(
        instruction=f"The booked appointment of {patient['name']} has taken place. Mark it as done.",
        calls=(*search, call("finish_appointment", appointment_id=appointment["id"])),
        changes=(_set(appointment, status="done"),),
    )


def _move(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn, day = _one_booked(rng, rows), rng.choice(clinic.DAYS)
    if drawn is None:
        return None
    patient, appointment, search = drawn
    doctor = rows.get("doctors", appointment["doctor_id"])
    hours = _free(rows, doctor, day) if doctor else []
    if not hours or day == appointment["day"]:
        return None
    hour = rng.choice(hours)
    return Draft(
        instruction=f"Move the booked appointment of {patient['name']} to {day} at {hour}.",
        calls=(*search, call("move_appointment", appointment_id=appointment["id"], day=day, time=hour)),
        changes=(_set(appointment, day=day, time=hour),),
    )


def _book(rng: random.Random, rows: SqlRows) -> Draft | None:
    patient, doctor = rng.choice(rows.find("patients")), rng.choice(rows.find("doctors"))
    day, reason = rng.choice(clinic.DAYS), rng.choice(clinic.REASONS)
    hour = pick(rng, _free(rows, doctor, day))
    if hour is None:
        return None
    slot = {"doctor_id": doctor["id"], "patient_id": patient["id"], "day": day, "time": hour, "reason": reason}
    return Draft(
        instruction=f"Book {patient['name']} with {doctor['name']} on {day} at {hour}. The reason is: {reason}",
        calls=(_find_patient(patient), _find_doctor(doctor), call("book_appointment", **slot)),
        changes=((_INSERT, tuple(slot.values())),),
    )


def _book_first(rng: random.Random, rows: SqlRows) -> Draft | None:
    patient, doctor = rng.choice(rows.find("patients")), rng.choice(rows.find("doctors"))
    day, reason = rng.choice(clinic.DAYS), rng.choice(clinic.REASONS)
    hours = _free(rows, doctor, day)
    if len(hours) in (0, len(clinic.HOURS)):
        return None
    slot = {"doctor_id": doctor["id"], "patient_id": patient["id"], "day": day, "time": hours[0], "reason": reason}
    return Draft(
        instruction=f"Book {patient['name']} with {doctor['name']} on {day}, at the first free time. "
        f"The reason is: {reason}",
        calls=(
            _find_patient(patient),
            _find_doctor(doctor),
            call("list_free_times", doctor_id=doctor["id"], day=day),
            call("book_appointment", **slot),
        ),
        changes=((_INSERT, tuple(slot.values())),),
    )


def _phone(rng: random.Random, rows: SqlRows) -> Draft | None:
    patient = rng.choice(rows.find("patients"))
    phone = other(rng, [f"555-{number}" for number in range(1000, 10000, 37)], patient["phone"])
    return Draft(
        instruction=f"The new phone number of {patient['name']} is {phone}. Save it.",
        calls=(_find_patient(patient), call("set_phone", patient_id=patient["id"], phone=phone)),
        changes=(("UPDATE patients SET phone = ? WHERE id = ?", (phone, patient["id"])),),
    )


def _register(rng: random.Random, rows: SqlRows) -> Draft | None:
    name = f"{rng.choice(('Olga', 'Peter', 'Sara', 'Tomas'))} {rng.choice(('Stone', 'Lake', 'Field', 'Marsh'))}"
    phone, born = f"555-{rng.randrange(1000, 10000)}", rng.randrange(1950, 2021)
    return Draft(
        instruction=f"Register the patient {name}, born {born}, phone {phone}.",
        calls=(call("add_patient", name=name, phone=phone, born=born),),
        changes=(("INSERT INTO patients (name, phone, born) VALUES (?, ?, ?)", (name, phone, born)),),
    )


def _clear_day(rng: random.Random, rows: SqlRows) -> Draft | None:
    days = [
        (doctor, day, booked)
        for doctor in rows.find("doctors")
        for day in clinic.DAYS
        if len(booked := rows.find("appointments", equals(doctor_id=doctor["id"], day=day, status="booked"))) > 1
    ]
    drawn = pick(rng, days)
    if drawn is None:
        return None
    doctor, day, booked = drawn
    return Draft(
        instruction=f"{doctor['name']} is ill on {day}. Cancel all booked appointments of that day.",
        calls=(
            _find_doctor(doctor),
            call("list_appointments", doctor_id=doctor["id"], day=day, status="booked"),
            *(call("cancel_appointment", appointment_id=row["id"]) for row in booked),
        ),
        changes=tuple(_set(row, status="cancelled") for row in booked),
    )


def _free_hours(rng: random.Random, rows: SqlRows) -> Draft | None:
    doctor, day = rng.choice(rows.find("doctors")), rng.choice(clinic.DAYS)
    hours = _free(rows, doctor, day)
    if not hours:
        return None
    return Draft(
        instruction=f"When is {doctor['name']} free on {day}? Answer with the times, separated by commas.",
        calls=(_find_doctor(doctor), call("list_free_times", doctor_id=doctor["id"], day=day)),
        answer=", ".join(hours),
        answer_kind="set",
    )


def _which_room(rng: random.Random, rows: SqlRows) -> Draft | None:
    drawn = _one_booked(rng, rows)
    if drawn is None:
        return None
    patient, appointment, search = drawn
    doctor = rows.get("doctors", appointment["doctor_id"])
    if doctor is None:
        return None
    return Draft(
        instruction=f"In which room is the booked appointment of {patient['name']}? Answer with the number.",
        calls=(*search, call("get_doctor", doctor_id=doctor["id"])),
        answer=str(doctor["room"]),
        answer_kind="number",
    )


DOMAIN = Domain(
    name="clinic",
    title="a clinic",
    schema=clinic.SCHEMA,
    tables=clinic.TABLES,
    populate=clinic.populate,
    tools=clinic.TOOLS,
    templates=(
        Template(name="cancel", draw=_cancel),
        Template(name="finish", draw=_finish),
        Template(name="move", draw=_move),
        Template(name="book", draw=_book),
        Template(name="book-first", draw=_book_first),
        Template(name="phone", draw=_phone),
        Template(name="register", draw=_register),
        Template(name="clear-day", draw=_clear_day),
        Template(name="free-hours", draw=_free_hours),
        Template(name="which-room", draw=_which_room),
    ),
)
