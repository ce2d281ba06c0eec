"""What a command is: each has a file of its own here, and is listed in :mod:`jpegdl.cli.commands`."""

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


class Command:
    """One command. Nothing heavy is imported before it is asked for its parser, or run.

    Attributes:
        about: what it does, in one line.
        example: a command line to start from.
        short: the options that most people need, which ``--help`` explains; empty for all.
        resumes: after what the same command goes on where it was interrupted, in words; None if it begins anew.
        extra: that brings all packages it may need.
    """

    about: ClassVar[str]
    example: ClassVar[str]
    short: ClassVar[tuple[str, ...]] = ()
    resumes: ClassVar[str | None] = None
    extra: ClassVar[str] = "train"

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return type(self).__name__.lower()

    def parser(self) -> "ArgumentParser":
        """Return the parser of its arguments, which can be looked at without running anything."""
        from jpegdl.parsing import with_dashes

        return with_dashes(self.build())

    def build(self) -> "ArgumentParser":
        """Return a parser of its arguments; what a command defines."""
        raise NotImplementedError

    def run(self, chosen: dict[str, Any]) -> None:
        """Do it.

        Args:
            chosen: all settings, by name.
        """
        raise NotImplementedError
