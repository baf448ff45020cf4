"""Every error this package raises on purpose. Each says what is wrong, where, and what to do.

GrpoError
├── ConfigError      a configuration file, a ``--set`` override, or a combination of settings
├── DataError        a prompt file: file, line, field
├── RewardError      the reward file itself (a failing *sample* is data, not an exception)
├── ModelError       a model directory that is missing, incomplete or unsupported
├── EngineError      the rollout engine died, hung or answered nonsense, after all retries
├── SyncError        the sampler provably does not run the trainer's policy
├── CheckpointError  a checkpoint that is torn, foreign or damaged
├── StorageError     a file that cannot be written now; nothing is lost
├── DeviceMemoryError  the update does not fit, however it is cut up
└── SetupError       this machine cannot run what was asked (driver, packages, disk)
"""

FAILS_AGAIN, ENGINE_FAILED, MAY_PASS = 65, 70, 75
"""Exit codes of a training: an error that would come again; an engine that did not last; one of the machine, a full
disk for instance. Python's own code for a crash is 1."""
INTERRUPTED = "interrupted; the same command goes on from the last complete step"


def printable(text: str) -> str:
    """Untrusted text for a terminal: no control characters that move the cursor, set titles or change colours."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def exit_code(error: Exception) -> int:
    """Of a training that ended with ``error``."""
    if isinstance(error, EngineError):
        return ENGINE_FAILED
    return MAY_PASS if isinstance(error, OSError | StorageError) else FAILS_AGAIN


def explain(error: Exception) -> str:
    """One message for the user. An OSError is most often a full disk or a missing permission: nothing is lost by it."""
    message = printable(f"error: {error}")
    if isinstance(error, OSError):
        message += "\nMend the cause (space, permissions); the same command goes on from the last complete step"
    return message


class GrpoError(Exception):
    """Base of all errors with a message meant for the user; the command line prints it alone."""


class ConfigError(GrpoError):
    """A setting is unknown, of the wrong type, out of range, or contradicts another."""


class DataError(GrpoError):
    """A prompt file has rows that cannot be used; the message lists file, line and field."""


class RewardError(GrpoError):
    """The reward file cannot be loaded or has no handler."""


class ModelError(GrpoError):
    """A model directory cannot be used."""


class EngineError(GrpoError):
    """The rollout engine failed and restarting it did not help."""


class SyncError(GrpoError):
    """The sampler's log-probabilities contradict the trainer's weights."""


class CheckpointError(GrpoError):
    """A checkpoint is incomplete, damaged or belongs to another run."""


class StorageError(GrpoError):
    """A file cannot be written, most often for want of space; the run goes on from its last complete step."""


class DeviceMemoryError(GrpoError):
    """The accelerator's memory does not hold the update, however small its parts."""


class SetupError(GrpoError):
    """The machine lacks something this run needs."""
