"""The one exception for what a user can mend."""


class UsageError(ValueError):
    """Something given cannot be used; the message names it and the way out.

    The command line prints the message on one line, without a traceback. Library code may catch it as
    ``ValueError``.
    """
