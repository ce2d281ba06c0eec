"""What a command is: each has a file of its own here, and is listed in :mod:`jpegdl.cli.commands`."""

import itertools
from collections.abc import Mapping
from typing import Any, ClassVar

SETTINGS = "[--config RECIPE] [--KEY VALUE ...]"
Parser = Any  # jsonargparse's, which is imported when there is one to make


class Command:
    """One command. Nothing heavy is imported before it is asked for its parser, or run.

    Attributes:
        about: what it does, in one line.
        more: what ``--help-all`` says besides.
        usage: how its arguments are given.
        example: a command line to start from.
        short: the options that most people need, which ``--help`` explains; empty for all.
        resumes: after what the same command goes on where it was interrupted, in words; None if it begins anew.
        extra: that brings all packages it may need.
    """

    about: ClassVar[str]
    more: ClassVar[str] = ""
    usage: ClassVar[str]
    example: ClassVar[str]
    short: ClassVar[tuple[str, ...]] = ()
    resumes: ClassVar[str | None] = None
    extra: ClassVar[str] = "train"

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return type(self).__name__.lower()

    def parser(self) -> Parser:
        """Return the parser of its arguments, which can be looked at without running anything."""
        from jpegdl.parsing import with_dashes

        own = self.start(f"jpegdl {self.name} {self.usage}", f"{self.about} {self.more}".rstrip())
        self.add(own)
        return with_dashes(own)

    def start(self, usage: str, about: str) -> Parser:
        """Return a parser of what all commands of its kind take."""
        from jpegdl.parsing import plain_parser

        return plain_parser(usage, about)

    def add(self, parser: Parser) -> None:
        """Add its own arguments."""

    def run(self, chosen: dict[str, Any]) -> None:
        """Do it.

        Args:
            chosen: all settings, by name.
        """
        raise NotImplementedError


class OnComparison(Command):
    """A command on a comparison that is there.

    Attributes:
        name_first: whether its name may come first.
    """

    usage = "[NAME] [--KEY VALUE ...]"
    name_first: ClassVar[bool] = True

    def start(self, usage: str, about: str) -> Parser:
        from jpegdl.parsing import name_first

        own = super().start(usage, about)
        own.add_argument("--name", type=str, default="run", help="name of the comparison")
        own.add_argument("--output", type=str, default="runs", help="folder of all comparisons")
        return name_first(own) if self.name_first else own


class WithSettings(Command):
    """A command that takes all settings of a comparison, whose name may come first.

    Attributes:
        new: whether the comparison may be new.
    """

    usage = f"[NAME] {SETTINGS}"
    new: ClassVar[bool] = False

    def start(self, usage: str, about: str) -> Parser:
        from jpegdl.comparison import ARMS, CompareConfig
        from jpegdl.layer import LAYER_KINDS
        from jpegdl.parsing import name_first, settings_parser

        own = settings_parser(usage, about, CompareConfig)
        lists: dict[str, Mapping[str, Any]] = {"jpegdl.layer.LAYER_KINDS": LAYER_KINDS, "jpegdl.comparison.ARMS": ARMS}
        for action, (name, entries) in itertools.product(own._actions, lists.items()):
            listed = ", ".join(f"{key} ({entry.about})" for key, entry in entries.items())
            action.help = (action.help or "").replace(f"one of :data:`{name}`", listed)
        return name_first(own, new=self.new)
