"""All commands, in the order of the help."""

from jpegdl.cli.attack import Attack
from jpegdl.cli.calibrate import Calibrate
from jpegdl.cli.command import Command
from jpegdl.cli.compare import Compare
from jpegdl.cli.completion import Completion
from jpegdl.cli.compress import Compress
from jpegdl.cli.evaluate import Evaluate
from jpegdl.cli.explain import Explain
from jpegdl.cli.export import Export
from jpegdl.cli.paired import Paired
from jpegdl.cli.predict import Predict
from jpegdl.cli.rate import Rate
from jpegdl.cli.recipes import Recipes
from jpegdl.cli.report import Report
from jpegdl.cli.summary import Summary
from jpegdl.cli.train import Train
from jpegdl.cli.tune import Tune

COMMANDS: dict[str, Command] = {}
COMMANDS |= {
    command.name: command
    for command in (
        Compare(),
        Train(),
        Tune(),
        Evaluate(),
        Predict(),
        Calibrate(),
        Export(),
        Compress(),
        Rate(),
        Summary(),
        Paired(),
        Attack(),
        Explain(),
        Report(),
        Recipes(),
        Completion(COMMANDS),  # which is to complete all of them, itself too
    )
}
