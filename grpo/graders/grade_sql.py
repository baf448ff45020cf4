"""1 where the answer's query returns what the reference's does, on a SQLite database in memory, 0 elsewhere.

The database is made by a script: ``options.setup``, or the row's ``setup`` field. Rows may come in any order. A result
of more than 10,000 rows, or a query of more than about a second, counts as none.
options: setup, field (of an object reference), ordered (false)
"""

import sqlite3
from collections import Counter

from contract import answer, batch, options, reference, without_fence

SETTINGS = options({"setup": None, "field": None, "ordered": False})
MOST_ROWS, MOST_STEPS = 10_000, 10_000_000
"""Of a result; of SQLite's virtual machine, about a second."""


def database(setup):
    connection = sqlite3.connect(":memory:")
    connection.executescript(setup)
    connection.set_authorizer(only_reading)
    steps = iter(range(MOST_STEPS // 1000))
    connection.set_progress_handler(lambda: next(steps, None) is None, 1000)
    return connection


def only_reading(action, *_):
    allowed = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)
    return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY


def rows(connection, query):
    cursor = connection.execute(query)
    if cursor.description is None:
        raise sqlite3.ProgrammingError("no query")
    found = cursor.fetchmany(MOST_ROWS + 1)
    if len(found) > MOST_ROWS:
        raise sqlite3.ProgrammingError(f"more than {MOST_ROWS} rows")
    return found if SETTINGS["ordered"] else Counter(found)


def score(sample):
    setup = SETTINGS["setup"] or sample["metadata"].get("setup")
    if not isinstance(setup, str):
        raise ValueError("setup: neither reward.options nor the row has a script that makes the database")
    query = reference(sample, SETTINGS["field"])
    try:
        made = database(setup)
    except sqlite3.Error as error:
        raise ValueError(f"setup: {error}") from None
    try:
        wanted = rows(made, query)
    except sqlite3.Error as error:
        raise ValueError(f"the reference's own query fails: {error}") from None
    try:
        return rows(database(setup), without_fence(answer(sample), "sql", "sqlite")) == wanted
    except (sqlite3.Error, sqlite3.Warning):
        return 0.0


def lambda_handler(event, context):
    return batch(score, event)
