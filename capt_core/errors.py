"""Errors that are the user's to mend."""


class CaptError(Exception):
    """A mistake in the user's input, settings or files.

    The message is one line: what is wrong, where, and the command or edit that mends it.
    The command line prints it without a traceback and exits with code 2.
    """
