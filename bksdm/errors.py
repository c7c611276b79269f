"""The one exception that means: the user must change something."""


class InputError(ValueError):
    """Bad input. The message names the value, what was expected and the remedy, in one line;
    commands exit with 2.
    """
