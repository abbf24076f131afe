"""The one exception for mistakes that a person can mend."""


class UserError(Exception):
    """A person's mistake: what is wrong, where, and the mend, in one line.

    Entry points print it as ``lossline <verb>: error: <message>`` and exit with status 2. A bug is
    any other exception, and keeps its traceback.
    """

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
