"""Running the command in a test."""

from jpegdl.cli import main


def run_command(capsys, *arguments):
    """Its exit status, and what it printed to stdout and stderr."""
    status = main(list(arguments))
    out, err = capsys.readouterr()
    return status, out, err


def one_error(capsys, *arguments):
    """The one line that a wrong command prints."""
    status, _, err = run_command(capsys, *arguments)
    lines = [line for line in err.splitlines() if line.startswith("jpegdl: error:")]
    assert status in (1, 2)
    assert len(lines) == 1
    assert "Traceback" not in err
    return lines[0]
