"""The server's state in SQLite. Only this package knows SQL."""

from grpo.server.store.customizations import Customizations
from grpo.server.store.database import Database
from grpo.server.store.deployments import Deployments
from grpo.server.store.files import Files
from grpo.server.store.functions import Functions
from grpo.server.store.jobs import Jobs
from grpo.server.store.lines import Lines
from grpo.server.store.log import Log
from grpo.server.store.models import Models
from grpo.server.store.objects import Objects
from grpo.server.store.tags import Tags


class Store:
    """All tables of one data directory."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.files = Files(database)
        self.jobs = Jobs(database)
        self.log = Log(database)
        self.models = Models(database)
        self.functions = Functions(database)
        self.objects = Objects(database)
        self.lines = Lines(database)
        self.customizations = Customizations(database)
        self.tags = Tags(database)
        self.deployments = Deployments(database)


__all__ = ["Database", "Store"]
