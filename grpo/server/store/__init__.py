"""The server's state in SQLite. Only this package knows SQL."""

from grpo.server.store.database import Database
from grpo.server.store.files import Files
from grpo.server.store.functions import Functions
from grpo.server.store.jobs import Jobs
from grpo.server.store.log import Log
from grpo.server.store.models import Models


class Store:
    """All tables of one data directory."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.files = Files(database)
        self.jobs = Jobs(database)
        self.log = Log(database)
        self.models = Models(database)
        self.functions = Functions(database)


__all__ = ["Database", "Store"]
