"""The one exception that means: the user must change something."""


class InputError(ValueError):
    """Bad input. The message names the value, what was expected and the remedy, in one line;
    commands exit with 2.
    """

    def __init__(self, message: str) -> None:
        # torch raises a loader process's error again with its whole traceback as the message.
        super().__init__(message.rpartition("bksdm.errors.InputError: ")[2])
