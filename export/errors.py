"""What can go wrong in an export; each message says what to do."""


class ExportError(Exception):
    """An export that can't be made; the message says why and what would be right."""

    exit_status = 1


class InvalidFile(ExportError):
    """A file that is not a TFLite model, or one that a runtime could not read safely."""


class RuntimeFailure(ExportError):
    """A file that the runtime refused, crashed on, or did not finish in time."""
