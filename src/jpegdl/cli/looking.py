"""The commands that look at what was trained: attack, explain, report."""

from typing import TYPE_CHECKING, Any

from jpegdl.cli.shared import add_comparison, add_seeds, chosen_runs, comparison_folder, note_command, pick, say
from jpegdl.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from jsonargparse import ArgumentParser

    from jpegdl.runs import RunFolder


def attack_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser
    from jpegdl.robustness import AttackConfig

    parser = plain_parser("jpegdl attack [--name NAME] [--KEY VALUE ...]", about)
    add_comparison(parser)
    parser.add_argument("--arms", type=list[str], default=["plain", "jpeg-dl"], help="whose models to attack")
    add_seeds(parser)
    parser.add_class_arguments(AttackConfig)
    return parser


def attack(chosen: dict[str, Any]) -> None:
    from jpegdl.files import replacing, write_csv
    from jpegdl.robustness import (
        AttackConfig,
        attack_figure,
        attack_name,
        attack_notes,
        attack_rows,
        attack_run,
        attack_text,
        check_attack,
        with_earlier,
    )
    from jpegdl.runs import finished_runs
    from jpegdl.runs.progress import Bar

    config = pick(AttackConfig, chosen)
    check_attack(config)
    folder = comparison_folder(chosen)
    runs = chosen_runs(folder, chosen)
    finished = _in_order(folder, finished_runs(folder))
    plain = finished.get("plain", {})
    results: dict[str, dict[int, dict[str, Any]]] = {}
    for arm, by_seed in runs.items():
        for seed, run in by_seed.items():
            with Bar(f"{arm}, seed {seed}", "pieces") as bar:
                result = attack_run(run, config, plain.get(seed) if arm != "plain" else None, bar.show)
            results.setdefault(arm, {})[seed] = result
            say(f"{attack_text(result)}\n")
    name = attack_name(config.rounding)
    results, notes = with_earlier(results, finished, config.rounding)
    write_csv(folder / f"{name}.csv", attack_rows(results))
    written = [f"{name}.csv"]
    try:
        figure = attack_figure(results, list(finished))
        notes += attack_notes(results)
    except UsageError as error:  # what cannot be put side by side has its rows all the same
        figure = None
        say(f"No figure: {error}")
    if figure is not None:
        with replacing(folder / f"{name}.png") as file:
            figure.savefig(file, dpi=100, facecolor="white")
        written.append(f"{name}.png")
    for note in notes:
        say(note)
    note_command(folder, chosen)
    page = "jpegdl report adds them to its page" if config.rounding is None else "the page of jpegdl report is without them"
    say(f"Written to {folder}: {', '.join(written)}; {page}")


def _in_order(folder: "Path", runs: "dict[str, dict[int, RunFolder]]") -> "dict[str, dict[int, RunFolder]]":
    """Runs in the order of the comparison's table, if there is one; then the others."""
    from jpegdl.files import read_json

    summary = read_json(folder / "summary.json", ("arms",))
    order = [*(summary["arms"] if summary else ()), *runs]
    return {arm: runs[arm] for arm in dict.fromkeys(order) if arm in runs}


def explain_parser(about: str) -> "ArgumentParser":
    from jpegdl.explain import ExplainConfig
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl explain [--name NAME] [--KEY VALUE ...]", about)
    add_comparison(parser)
    parser.add_argument("--arm", type=str, default="jpeg-dl", help="whose model")
    parser.add_argument("--seed", type=int | None, default=None, help="which seed (default: the lowest there is)")
    parser.add_class_arguments(ExplainConfig)
    return parser


def explain(chosen: dict[str, Any]) -> None:
    from jpegdl.explain import ExplainConfig, explain_run
    from jpegdl.runs import finished_runs
    from jpegdl.runs.progress import Bar

    folder, arm = comparison_folder(chosen), chosen["arm"]
    runs = finished_runs(folder, [arm], None if chosen["seed"] is None else [chosen["seed"]])[arm]
    seed = min(runs)
    plain = finished_runs(folder).get("plain", {}).get(seed) if arm != "plain" else None
    config = pick(ExplainConfig, chosen)
    with Bar(f"{arm}, seed {seed}") as bar:
        found = explain_run(runs[seed], config, plain, bar.show)
    pictures = [name for name in found["files"] if name.endswith(".png")]
    if not pictures:
        why = {entry["what"]: entry["why"] for entry in found["left_out"]}
        raise UsageError(f"there is nothing to explain of {arm}, seed {seed}: {why['frequencies']}; --arm names another")
    for sentence in found["words"]:
        say(sentence)
    for entry in found["left_out"]:
        say(f"left out: {entry['what']}, {entry['why']}")
    note_command(folder, chosen)
    say(f"Written to {runs[seed].path / 'explain'}: {', '.join(pictures)}; jpegdl report adds them to its page")


def report_parser(about: str) -> "ArgumentParser":
    from jpegdl.parsing import plain_parser

    parser = plain_parser("jpegdl report [--name NAME] [--output FOLDER]", about)
    add_comparison(parser)
    return parser


def report(chosen: dict[str, Any]) -> None:
    from jpegdl.report import write_report

    say(f"Written to {write_report(comparison_folder(chosen))}")
