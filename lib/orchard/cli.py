"""The ``orchard`` command. Heavy modules are imported inside the commands, so that ``orchard --help`` is quick.

A paper whose ``cli.py`` has a typer ``app`` has commands of its own: ``orchard SLUG ...``.

An error that a user can mend prints one message and sets the exit status: 2 for bad input (nothing was started), 1 when
something failed. ``--debug`` before the command shows the traceback.
"""

from __future__ import annotations

import importlib
import io
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from orchard.errors import BadInput, OrchardError

PAPERS = Path(__file__).parent / "papers"


WITH_COMMANDS = sorted(path.parent.name for path in PAPERS.glob("*/cli.py") if "\napp = " in path.read_text("utf-8"))

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Research papers as notebooks that decide their claims.",
    epilog=f"Papers with commands of their own (orchard PAPER --help): {', '.join(WITH_COMMANDS)}",
)
runs_app = typer.Typer(no_args_is_help=True, help="Finished runs in the store.")
app.add_typer(runs_app, name="runs")

Slug = Annotated[str, typer.Argument(help="a paper; `orchard list` shows them")]
Slugs = Annotated[list[str] | None, typer.Argument(help="papers; all of them by default")]
ProfileOption = Annotated[str, typer.Option("--profile", help="smoke (does it run), laptop (an evening), gpu or paper")]
DataOption = Annotated[str, typer.Option("--data", help="embedded, a path, or a hub id owner/name")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps")]
EngineOption = Annotated[str, typer.Option("--engine", help="where runs are computed")]
StoreOption = Annotated[str | None, typer.Option("--store", help="folder of the run store")]
Ids = Annotated[list[str], typer.Argument(help="the first digits of run ids")]


@app.callback()
def _options(debug: Annotated[bool, typer.Option("--debug", help="show tracebacks")] = False) -> None:
    """Options before the command."""


@app.command("list")
def list_() -> None:
    """Papers with their notebooks, profiles and experiments."""
    from orchard.notebooks import notebooks_of
    from orchard.series import paper_module, slugs

    rows = []
    for slug in slugs():
        experiments = paper_module(slug, "experiments")
        names = ", ".join(path.stem for path in notebooks_of(slug))
        rows.append([slug, names, ", ".join(experiments.PROFILES), ", ".join(experiments.EXPERIMENTS)])
    _table(["paper", "notebooks", "profiles", "experiments"], rows)


@app.command()
def run(
    slug: Slug, profile: ProfileOption = "smoke", data: DataOption = "embedded", device: DeviceOption = "auto",
    engine: EngineOption = "local", store: StoreOption = None,
    seeds: Annotated[int | None, typer.Option(help="number of seeds; the profile's own by default")] = None,
    jobs: Annotated[int | None, typer.Option(help="runs at a time")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be computed")] = False,
) -> None:  # fmt: skip
    """Compute the runs of a series, without notebooks."""
    from orchard import series
    from orchard.runs.engine import check_jobs
    from orchard.train import describe

    series.check_profile(slug, profile)
    check_jobs(jobs)
    if dry_run and profile in series.PUBLISHED_SCALE:
        _paper(slug)
    elif dry_run:
        table = series.planned(slug, profile, seeds, data, store)
        _table(
            ["id", "run", ""],
            [[str(r.id), str(r.run), "finished" if r.finished else "to compute"] for r in table.itertuples()],
        )
        print(
            f"{int((~table['finished'].astype(bool)).sum())} of the {len(table)} runs known so far are to be computed"
        )
    else:
        print(describe(device), flush=True)
        done = series.compute(slug, profile, seeds, device, engine, jobs, data, store)
        print(f"{len(done)} runs are finished in {series.Store(store).path}")


def _paper(slug: str) -> None:
    from orchard.series import paper_module

    experiments = paper_module(slug, "experiments")
    shapes = experiments.paper_shapes()
    h100_days = shapes["training FLOPs"] / (0.4 * 989e12) / 86400
    shapes = shapes.assign(**{"H100 days at 40 % MFU": h100_days})
    table = [list(shapes.columns), *([_number(value) for value in row] for row in shapes.itertuples(index=False))]
    if len(shapes.columns) > 2 * len(shapes):  # wider than a terminal: a column for each model instead
        table = [list(row) for row in zip(*table, strict=True)]
    _table(table[0], table[1:])
    print(f"launch: {experiments.LAUNCH}")


@app.command()
def reproduce(
    slugs: Slugs = None, profile: ProfileOption = "smoke", engine: EngineOption = "local",
    parameter: Annotated[
        list[str] | None, typer.Option("-p", "--parameter", metavar="NAME VALUE", help="set a notebook parameter; repeatable")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="runs, and then notebooks, at a time; one per core by default")] = None,
    timeout: Annotated[float, typer.Option(help="limit on each notebook, in seconds")] = 3600.0,
) -> None:  # fmt: skip
    """Compute the runs of series, execute their notebooks headlessly and write the report; exit status 1 if a notebook fails."""
    from orchard import notebooks, report, series
    from orchard.notebooks.parameters import parse_value

    parameters: dict[str, Any] = {"PROFILE": profile, "ENGINE": engine}
    for pair in parameter or []:
        name, _, value = pair.partition("=")
        parameters[name] = parse_value(name, value)
    done = notebooks.reproduce(
        slugs or [], parameters, jobs=jobs, timeout_s=timeout, live=sys.stdout.isatty(), executed=report.page
    )
    page = report.build(series.reports_folder())
    print(f"report: {series.relative(page)}")
    failed = [execution for execution in done if not execution.ok]
    if failed:
        raise OrchardError(f"{len(failed)} of {len(done)} notebooks failed: {', '.join(f.name for f in failed)}")


@app.command()
def generate(
    folder: Annotated[Path, typer.Argument(help="a saved model, as 06_use or `orchard runs save` writes it")],
    prompt: Annotated[str, typer.Option(help="the beginning of the text")] = "",
    tokens: Annotated[int, typer.Option(help="new tokens at most")] = 200,
    temperature: Annotated[float, typer.Option(help="0 takes the likeliest token")] = 0.8,
    top_p: Annotated[float | None, typer.Option(help="draw from the likeliest tokens of this mass")] = None,
    seed: Annotated[int, typer.Option()] = 0,
) -> None:
    """Continue a text with a saved model."""
    from orchard.train import load_saved

    try:
        text = load_saved(folder).complete(prompt, tokens, temperature, seed, top_p=top_p)
    except ValueError as error:
        raise BadInput(str(error)) from None
    print(prompt + text)


@app.command()
def claims(slugs: Slugs = None) -> None:
    """Verdicts with effect, interval, seeds, gate and control: from this machine's reports, else from the committed results."""
    from orchard.claims import PROFILES, in_order, print_verdicts
    from orchard.publish import committed
    from orchard.runs import Setting
    from orchard.series import output_folder, paper_module
    from orchard.series import slugs as known

    for slug in slugs or known():
        paper_module(slug, "experiments")
        found = False
        for profile in PROFILES:
            here = committed(slug, profile, output_folder(slug, Setting(profile)))
            if results := here or committed(slug, profile):
                found = True
                print(f"{slug}, profile {profile}, {'from reports' if here else 'committed results'}", flush=True)
                print_verdicts(in_order(verdict for result in results for verdict in result["verdicts"]))
        if not found:
            print(f"{slug}: no results yet; `orchard reproduce {slug}` computes them")


@app.command()
def report(
    publish: Annotated[
        str | None,
        typer.Option(
            metavar="PROFILE",
            help="commit-ready: copy results and figures of this profile (laptop or gpu) into the tree",
        ),
    ] = None,
    slugs: Slugs = None,
) -> None:
    """Write reports/index.html anew from what the notebooks left there."""
    from orchard import publish as publishing
    from orchard import report as reporting
    from orchard import series
    from orchard.claims import PROFILES

    for slug in slugs or series.slugs():
        if publish:
            for path in publishing.publish(slug, publish):
                print(series.relative(path))
        for profile in PROFILES:
            for notebook in publishing.outdated(slug, profile):
                print(f"{slug}, profile {profile}, committed results older than the code: {notebook}")
    print(f"report: {series.relative(reporting.build(series.reports_folder()))}")


@app.command()
def new(slug: Annotated[str, typer.Argument(help="name of the package: lower-case letters, digits, _")]) -> None:
    """Make the files of a new paper, enter it in the index of the notebooks, and say what to do next."""
    from orchard.publish import update_index
    from orchard.scaffold import new as make
    from orchard.scaffold import next_steps

    for path in [*make(slug), update_index()]:
        print(path)
    print(next_steps(slug), end="")


@app.command()
def doctor() -> None:
    """What this machine has, and what Orchard would do with it."""
    import importlib.util
    import platform
    import shutil

    import torch
    from matplotlib import font_manager

    from orchard.paths import cache_dir, root
    from orchard.runs import Store
    from orchard.series import reports_folder
    from orchard.speed import factor
    from orchard.train import describe

    store = Store()
    font = font_manager.findfont("DejaVu Sans", fallback_to_default=False)
    speed = factor()
    optional = ("jupyterlab", "papermill", "ipywidgets", "datasets", "wandb", "transformers", "triton", "fla")
    present = {name: importlib.util.find_spec(name) is not None for name in optional}
    free = shutil.disk_usage(root() if root().exists() else Path.home()).free / 2**30
    whole, damaged = store.survey()
    _table(["what", "value"], [
        ["Python", f"{platform.python_version()} ({sys.executable})"],
        ["torch", torch.__version__],
        ["hardware", describe()],
        ["speed of one core", f"{speed:.2f} of the reference machine's: what takes it 10 minutes takes {10 / speed:.0f} here"],
        ["optional packages", ", ".join(n for n, here in present.items() if here) or "none"],
        ["not installed", ", ".join(n for n, here in present.items() if not here) or "none"],
        ["font of figures", font],
        ["project", str(root())],
        ["store", f"{store.path}: {len(whole)} runs, {sum(r.bytes for r in whole) / 2**20:.0f} MiB, {len(damaged)} not whole"],
        ["cache", str(cache_dir())],
        ["reports", str(reports_folder())],
        ["free disk", f"{free:.0f} GiB"],
    ])  # fmt: skip


@app.command()
def bench(
    slug: Annotated[
        str | None, typer.Argument(help="a paper, for its own operations; by default the library and every paper")
    ] = None,
    profile: Annotated[str | None, typer.Option("--profile", help="by default gpu on a GPU, else smoke")] = None,
    device: DeviceOption = "auto",
) -> None:
    """Speed as ratios against peers, measured now."""
    from orchard import bench as measure

    if slug is None:
        measure.main()
    for paper in measure.papers() if slug is None else [slug]:
        measure.bench_paper(paper, profile, device)


@runs_app.command("ls")
def runs_ls(store: StoreOption = None) -> None:
    """Finished runs, oldest first."""
    from orchard.runs import Store

    whole, others = Store(store).survey()
    rows = []
    for done in whole:
        facts = done.provenance
        rows.append([done.id, done.label, facts["started"], f"{facts['wall_s']:.1f}", f"{done.bytes / 2**20:.1f}"])
    _table(["id", "run", "started", "seconds", "MiB"], rows)
    if others:
        print(f"{len(others)} more are damaged or cannot be read: orchard runs verify", file=sys.stderr)


@runs_app.command("show")
def runs_show(run_id: Annotated[str, typer.Argument(help="first digits of the id")], store: StoreOption = None) -> None:
    """Result, provenance and files of a run."""
    import json

    from orchard.runs import Store

    done = Store(store).get_by_prefix(run_id)
    content = {"id": done.id, "label": done.label, "result": done.result, "provenance": done.provenance}
    print(
        json.dumps(content | {"files": done.status["files"], "folder": str(done.folder)}, indent=1, ensure_ascii=False)
    )


@runs_app.command("verify")
def runs_verify(store: StoreOption = None) -> None:
    """Compare every run with its hashes; exit status 1 if one is damaged or cannot be read. Files that are none of a run's are named."""
    from orchard.runs import Store

    found = Store(store)
    whole, problems = found.survey()
    for run_id, problem in problems:
        print(f"{run_id}: {problem}")
    for path in found.strangers():
        print(f"{path}: no file of the run, and does no harm")
    if problems:
        raise OrchardError(
            f"{len(problems)} runs in {found.path} are damaged or cannot be read; running the experiment of a damaged one again "
            "replaces it, and the owner of the others can let you read them (chmod -R a+rX)"
        )
    print(f"{len(whole)} runs in {found.path} are whole")


@runs_app.command("export")
def runs_export(
    file: Annotated[Path, typer.Argument(help="the tar file to write")],
    ids: Annotated[list[str] | None, typer.Argument(help="first digits of ids; all runs by default")] = None,
    store: StoreOption = None,
) -> None:
    """Write runs to one file, for `orchard runs import` on another machine."""
    from orchard.runs import Store

    found = Store(store)
    chosen = [found.get_by_prefix(i) for i in ids] if ids else found.ls()
    print(f"{len(chosen)} runs in {found.export(chosen, file)}")


@runs_app.command("import")
def runs_import(
    file: Annotated[Path, typer.Argument(help="a file that `orchard runs export` wrote")], store: StoreOption = None
) -> None:
    """Add the runs of a file to the store."""
    from orchard.runs import Store

    found = Store(store)
    print(f"{len(found.import_(file))} runs are in {found.path}")


@runs_app.command("save")
def runs_save(
    run_id: Annotated[str, typer.Argument(help="first digits of the id of a training run")],
    folder: Annotated[Path, typer.Argument(help="where the model goes")],
    store: StoreOption = None,
) -> None:
    """Take the trained model of a run away: a folder with weights, config and tokenizer."""
    from orchard.runs import Store
    from orchard.train import TextModel, save_model

    print(f"saved in {save_model(folder, TextModel.of_run(Store(store).get_by_prefix(run_id)))}")


@runs_app.command("rm")
def runs_rm(ids: Ids, store: StoreOption = None) -> None:
    """Delete runs."""
    from orchard.runs import Store

    found = Store(store)
    chosen = [found.get_by_prefix(i).id for i in ids]
    found.remove(chosen)
    print(f"removed {', '.join(chosen)}")


@runs_app.command("clean")
def runs_clean(
    days: Annotated[float, typer.Option(help="how long nothing was written to an attempt that is given up")] = 30.0,
    store: StoreOption = None,
) -> None:
    """Delete attempts at runs that are finished or given up, and what killed commands left behind."""
    from orchard.runs import Store

    if days < 0:
        raise BadInput(f"--days {days:g}: give a number from 0 up")
    found = Store(store)
    deleted = found.clean(days)
    for path, size in deleted:
        print(f"{path}: {size / 2**20:.1f} MiB")
    print(f"{len(deleted)} folders deleted from {found.path}")


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.2e}" if value >= 1e7 else f"{value:.3g}" if 0 < value < 10 else f"{value:,.1f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table that keeps whole words on a terminal and is tab-free text elsewhere."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(*header, box=box.SIMPLE, pad_edge=False, show_edge=False)
    for row in rows:
        table.add_row(*row)
    Console(width=None if sys.stdout.isatty() else 160, highlight=False).print(table, markup=False) if rows else print(
        "none"
    )


def _joined(arguments: Sequence[str]) -> list[str]:
    """``-p NAME VALUE`` as ``-p NAME=VALUE``: the form that papermill users know, in one value."""
    joined, rest = [], list(arguments)
    while rest:
        word = rest.pop(0)
        if word in ("-p", "--parameter"):
            if len(rest) < 2:
                raise BadInput(f"{word} takes a name and a value, as in: -p PROFILE smoke")
            word = f"--parameter={rest.pop(0)}={rest.pop(0)}"
        joined.append(word)
    return joined


def _program(arguments: Sequence[str]) -> tuple[typer.Typer, list[str], str]:
    """What to run, with which arguments and under which name: a paper's own commands, or those of this module."""
    slug, *rest = [word for word in arguments if word != "--debug"] or [""]
    if slug in WITH_COMMANDS:
        return importlib.import_module(f"orchard.papers.{slug}.cli").app, rest, f"orchard {slug}"
    return app, _joined(arguments), "orchard"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of the ``orchard`` command."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    for stream in (sys.stdout, sys.stderr):  # a terminal that is not UTF-8 shows ? where it lacks a letter
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    with _ended_by_signals(), _plain_warnings():
        try:
            program, words, name = _program(arguments)
            program(args=words, prog_name=name)
        except OrchardError as error:
            if "--debug" in arguments:
                raise
            print(f"orchard: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except OSError as error:  # a full disk, a folder without permission: the message names the file
            if "--debug" in arguments:
                raise
            print(f"orchard: {error}; `orchard --debug ...` shows where", file=sys.stderr)
            sys.exit(1)


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Warnings as one line for people, without the place in our code that gave them."""
    before = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = before


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP (a closed terminal) as Ctrl-C: kernels and workers are ended. One that is ignored stays so (nohup)."""
    before: dict[int, Any] = {}
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) is not signal.SIG_IGN:
            before[number] = signal.signal(number, lambda number, _: sys.exit(128 + number))
    try:
        yield
    finally:  # who calls this from Python goes on, and so may its forks, which inherit the handlers
        for number, handler in before.items():
            signal.signal(number, handler or signal.SIG_DFL)


if __name__ == "__main__":
    main()
