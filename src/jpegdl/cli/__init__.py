"""The command ``jpegdl``: settings in, one call, the outcome printed.

The list of commands is known without importing anything. What a command needs, PyTorch first of all, is imported when it runs.
"""

from jpegdl.cli.command import Command
from jpegdl.cli.commands import COMMANDS
from jpegdl.cli.main import main

__all__ = ["COMMANDS", "Command", "main"]
