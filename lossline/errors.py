"""The exception for errors that the user can fix."""


class UserError(Exception):
    """User error: what is wrong, where, and how to fix it, in one line.

    Entry points print it as ``lossline <verb>: error: <message>`` and exit with status 2. Every
    other exception is a bug and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class NotMadeYet(UserError):
    """Raised when an input that another command writes does not exist: a store, an origin.

    ``train`` refuses to start; a study plans the run without a hash until the input exists.
    """
