"""What a notebook uses: one object that runs experiments, shows figures and writes the notebook's verdicts.

series = open_series("rattention", "03_ablate", profile=PROFILE, seeds=SEEDS, device=DEVICE, engine=ENGINE, data=DATA, store=STORE)
table = series.table("ablation")                      # runs what the store lacks
series.show(figures.ablation(table), "ablation", table)
series.finish()                                       # writes 03_ablate.json, prints the verdicts
"""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from orchard import plot
from orchard.claims import VERDICTS, Verdict, decide, load_claims, print_verdicts, tally, verdict_table
from orchard.data import Source, text_source
from orchard.errors import BadInput, OrchardError, closest
from orchard.estimate import Estimate
from orchard.evidence import Evidence
from orchard.files import write
from orchard.paths import cache_dir, root
from orchard.runs import Finished, Run, Setting, Store, execute, identity, recipe
from orchard.runs.device import resolve_device
from orchard.runs.engine import all_dependencies, check_engine, check_jobs, default_jobs, plan
from orchard.runs.provenance import environment
from orchard.train import hardware
from orchard.widgets import Explorer

PUBLISHED_SCALE = ("paper",)  # too large to train here: instantiated on the meta device by `orchard run --dry-run`


def slugs() -> list[str]:
    """Papers of this library, by slug."""
    folder = Path(__file__).parent / "papers"
    return sorted(
        p.name
        for p in folder.iterdir()
        if (p / "experiments.py").exists() or (p / "experiments" / "__init__.py").exists()
    )


def paper_module(slug: str, name: str) -> ModuleType:
    """A module of a paper's package, such as its ``experiments``.

    Raises:
        BadInput: no such paper.
    """
    if slug not in slugs():
        raise BadInput(f"no paper {slug!r}: {closest(slug, slugs())}")
    return importlib.import_module(f"orchard.papers.{slug}.{name}")


def check_profile(slug: str, profile: str) -> None:
    """Raise ``BadInput`` unless the paper has this profile."""
    profiles = paper_module(slug, "experiments").PROFILES
    if profile not in profiles:
        raise BadInput(f"PROFILE {profile!r} does not exist for {slug}: {closest(profile, profiles)}")


def check_seeds(seeds: Any) -> tuple[int, ...] | None:
    """SEEDS as a tuple: None for the profile's own, a number n for 0 .. n-1, or a list. Raises ``BadInput``."""
    listed = list(range(seeds)) if type(seeds) is int else seeds
    if listed is None:
        return None
    if not isinstance(listed, Sequence) or not listed or not all(type(seed) is int and seed >= 0 for seed in listed):
        raise BadInput(
            f"SEEDS = {seeds!r}: give None, a number of seeds (1 or more), or a list of whole numbers from 0 up"
        )
    if len(set(listed)) < len(listed):
        raise BadInput(f"SEEDS = {seeds!r} names a seed twice: name each once")
    return tuple(listed)


def check_folders(store: str | None = None) -> None:
    """Raise ``BadInput`` that names every folder which cannot be written, with the variable that chooses another."""
    folders = {"ORCHARD_STORE": Store(store).path, "ORCHARD_CACHE": cache_dir(), "ORCHARD_OUTPUT": reports_folder()}
    refused = {}
    for variable, folder in folders.items():
        nearest = next(path for path in (folder, *folder.parents) if path.exists())
        if not os.access(nearest, os.W_OK | os.X_OK):
            refused[variable] = folder
    if refused:
        listed = ", ".join(f"{folder} ({variable})" for variable, folder in refused.items())
        raise BadInput(f"cannot write {listed}: set {' and '.join(refused)} to folders that you can write")


class Series:
    """A paper's experiments in one setting. Made by :func:`open_series`."""

    def __init__(
        self, slug: str, notebook: str, setting: Setting, device: str, engine: str, store: str | None, jobs: int | None
    ) -> None:
        self.slug, self.notebook, self.setting = slug, notebook, setting
        self.device, self.engine, self.jobs = device, engine, jobs
        self.store = Store(store)
        self.report: Callable[[str], None] | None = None  # told about every finished run; prints by default
        self.before: Callable[[], object] = lambda: None  # called when something has to be computed, before it is
        self.remark: Callable[[Run.Config, float], str] = lambda cfg, seconds: ""  # on a run that is finished
        self.experiments = paper_module(slug, "experiments")
        self.profile = self.experiments.PROFILES[setting.profile]
        self.output = output_folder(slug, setting, device)
        self._tables: dict[str, pd.DataFrame] = {}
        self._cfgs: dict[str, Run.Config] = {}  # by id
        self._runs: dict[str, Finished] = {}  # by the id that their config has here, corpus and code included
        self._figures: list[str] = []
        self._verdicts: dict[str, Verdict] = {}
        self._pictures: set[str] = set()  # what the notebook shows, so that it shows each once

    def run(self, cfgs: Sequence[Run.Config]) -> list[Finished]:
        """Finished runs of configs, in their order; missing ones are computed on the series' device and engine."""
        keys, missing = self._find(cfgs)
        if missing:
            self.before()
        done = execute(
            list(missing.values()),
            self.store,
            engine=self.engine,
            jobs=self.jobs,
            device=self.device,
            report=self.report,
            remark=self.remark,
        )
        self._runs.update(zip(missing, done, strict=True))
        return [self._runs[key] for key in keys]

    def _find(self, cfgs: Sequence[Run.Config]) -> tuple[list[str], dict[str, Run.Config]]:
        """Ids of configs, and those of them that are not finished."""
        known = [(identity(cfg), cfg) for cfg in cfgs]
        self._cfgs.update({ident.id: cfg for ident, cfg in known})
        missing: dict[str, Run.Config] = {}
        for ident, cfg in known:
            if ident.id not in self._runs:
                run = self.store.get(cfg, ident, self.device)
                if run is None:
                    missing[ident.id] = cfg
                else:
                    self._runs[ident.id] = run
        return [ident.id for ident, _ in known], missing

    def table(self, experiment: str) -> pd.DataFrame:
        """The tidy table of an experiment."""
        if experiment not in self._tables:
            self._tables[experiment] = self._experiment(experiment)(self.setting, self.run)
        return self._tables[experiment].copy()

    def prepare(self, *experiments: str) -> None:
        """Compute what several experiments need in common batches: no core waits for the last run of one of them."""
        wanted: list[Run.Config] = []

        def runner(cfgs: Sequence[Run.Config]) -> list[Finished]:
            keys, missing = self._find(cfgs)
            if missing:
                wanted.extend(missing.values())
                raise _NotYet
            return [self._runs[key] for key in keys]

        while True:
            wanted.clear()
            for name in experiments:
                if name not in self._tables:
                    with suppress(_NotYet):
                        self._tables[name] = self._experiment(name)(self.setting, runner)
            if not wanted:
                return
            self.run(wanted)

    def _experiment(self, name: str) -> Callable[..., pd.DataFrame]:
        known: dict[str, Callable[..., pd.DataFrame]] = self.experiments.EXPERIMENTS
        if name not in known:
            raise BadInput(f"{self.slug} has no experiment {name!r}: {closest(name, known)}")
        return known[name]

    def source(self) -> Source:
        """The text that DATA names."""
        source: Source = text_source(self.setting.data).build()
        return source

    def explore(self, draw: Callable[..., Figure], **controls: Any) -> Explorer:
        """Controls for the arguments of a figure; see :func:`orchard.widgets.explorer`."""

        @wraps(draw)
        def drawn(*args: Any, **values: Any) -> Figure:
            return plot.mark_profile(draw(*args, **values), self.setting.profile)

        return Explorer(drawn, controls, self._pictures)

    def runs_table(self) -> pd.DataFrame:
        """The runs this notebook has used: id, label, seconds, tokens per second."""
        rows = []
        for run in self._runs.values():
            facts = run.provenance
            rate = facts.get("throughput", {}).get("tokens_per_s")
            rows.append({"id": run.id, "run": run.label, "seconds": facts["wall_s"], "tokens/s": rate and round(rate)})
        return pd.DataFrame(rows)

    def claims_table(self) -> pd.DataFrame:
        """Every claim of the paper with its verdict in this setting; runs the experiments that the claims need."""
        return verdict_table(self.verdicts())

    def show(self, figure: Figure, name: str, table: pd.DataFrame) -> None:
        """Display a figure and save it as ``.svg`` and ``.png`` with the table it draws as ``.csv``."""
        plot.mark_profile(figure, self.setting.profile)
        plot.save(figure, self.output / "figures" / name, table)
        self._figures.append(name)
        picture = plot.mimebundle(figure)[0]["image/png"]
        if picture in self._pictures:
            print(f"saved as {name}: the picture stands above, under its sliders")
        else:
            self._pictures.add(picture)
            plot.show(figure)

    def verdicts(self, notebook: str | None = None) -> list[Verdict]:
        """Verdicts of the claims that ``notebook`` (None: every notebook) decides."""
        evidence: dict[str, Evidence] = self.experiments.EVIDENCE
        found = []
        gates, controls = (getattr(self.experiments, name, {}) for name in ("GATES", "CONTROLS"))
        scale = self.experiments.scale(self.setting.profile) if hasattr(self.experiments, "scale") else ""
        for claim in load_claims(papers_folder(self.slug)):
            if notebook is None or claim.notebook == notebook:
                if claim.id not in self._verdicts:
                    measured = evidence.get(claim.id)
                    values = measured(self.table) if measured else None
                    gate = partial(gates[claim.id], self.table) if claim.id in gates else None
                    control = controls[claim.id](self.table) if claim.id in controls else None
                    self._verdicts[claim.id] = decide(claim, values, self.setting.profile, gate, scale, control)
                found.append(self._verdicts[claim.id])
        return found

    def finish(self) -> list[Verdict]:
        """Write ``<notebook>.json`` to the output folder and print the verdicts of this notebook's claims."""
        verdicts = self.verdicts(self.notebook)
        content = {
            "slug": self.slug,
            "notebook": self.notebook,
            "profile": self.setting.profile,
            "data": data_label(self.setting.data),
            "seeds": list(self.setting.seeds) if self.setting.seeds is not None else None,
            "device": self.device,
            "verdicts": [verdict.as_dict() for verdict in verdicts],
            "figures": self._figures,
            "runs": self._used(),
            "provenance": self._provenance(),
        }
        write_json(self.output / f"{self.notebook}.json", content)
        if verdicts:
            print_verdicts(found.as_dict() for found in verdicts)
        else:
            print("This notebook decides no claim.")
        print(f"figures and results: {relative(self.output)}")
        return verdicts

    def _used(self) -> list[dict[str, Any]]:
        """The runs that were used and those that they contain: label, id, recipe (config and code, which tell later whether
        they are still those of the code), and what they took."""
        contained = [self.store.get(run) for cfg in self._cfgs.values() for run in all_dependencies(cfg)]
        rows = {
            run.id: {
                "label": run.label,
                "id": run.id,
                "recipe": run.recipe,
                "bytes": run.bytes,
                **{name: run.provenance[name] for name in ("cpu_s", "peak_memory_mib")},
            }
            for run in [*self._runs.values(), *contained]
            if run is not None
        }
        return sorted(rows.values(), key=lambda row: (row["label"], row["id"]))

    def _provenance(self) -> dict[str, Any]:
        runs = [run.provenance for run in self._runs.values()]
        here = environment()
        return {
            "python": here["python"],
            "packages": here["packages"],
            "machines": sorted(
                {f"{p['hardware']['name']} ({p['hardware']['device']})" for p in runs if "hardware" in p}
            )
            or [here["cpu"]],
            "trained_s": round(sum(p["wall_s"] for p in runs), 1),
            "git": sorted({_commit(p.get("git")) for p in runs}),
        }


def _commit(git: dict[str, Any] | None) -> str:
    """The commit in a run's provenance, or why it is unknown (no git, a checkout of another owner)."""
    if git and git.get("sha"):
        return str(git["sha"])
    return f"unknown: {(git or {}).get('why') or 'no git, or no checkout'}"


def open_series(
    slug: str, notebook: str, *, profile: str = "smoke", seeds: int | Sequence[int] | None = None, device: str = "auto",
    engine: str = "local", data: str = "embedded", store: str | None = None, jobs: int | None = None,
) -> Series:  # fmt: skip
    """Open a paper's series for one notebook, and print on what it will run.

    Args:
        seeds: None for the profile's own, a number n for 0 .. n-1, or a list.

    Raises:
        BadInput: a value that does not exist; the message names it and the fix. Nothing was started.
    """
    series = _open(slug, notebook, profile, seeds, device, engine, data, store, jobs)
    if profile in PUBLISHED_SCALE:
        raise BadInput(
            f"PROFILE {profile!r} is too large for a notebook; `orchard run {slug} --profile {profile} --dry-run` shows it"
        )
    print(f"{slug} {notebook}, profile {profile}, data {data_label(data)}")
    print(hardware.describe(device))
    return series


def _open(
    slug: str, notebook: str, profile: str, seeds: int | Sequence[int] | None, device: str, engine: str, data: str,
    store: str | None, jobs: int | None,
) -> Series:  # fmt: skip
    check_profile(slug, profile)
    check_engine(engine)
    text_source(data)
    setting = Setting(profile, check_seeds(seeds), data)
    return Series(slug, notebook, setting, device, engine, store, jobs)


def compute(
    slug: str, profile: str = "smoke", seeds: int | Sequence[int] | None = None, device: str = "auto",
    engine: str = "local", jobs: int | None = None, data: str = "embedded", store: str | None = None,
    report: Callable[[str], None] | None = None, before: Callable[[], object] = lambda: None,
) -> list[Finished]:  # fmt: skip
    """Compute every run of a series, in common batches and without notebooks, and return them.

    Says first how long it will take and with every finished run how long it still takes, where results of the profile are
    committed: runs are expected to take what they took then.

    Args:
        report: told about every finished run; prints by default.
        before: called when a run has to be computed, before it is.
    """
    check_jobs(jobs)
    check_folders(store)
    series = _open(slug, "", profile, seeds, device, engine, data, store, jobs)
    series.report, series.before = report, before
    results = [read_results(path) for path in (papers_folder(slug) / "results" / profile).glob("*.json")]
    estimate = Estimate((run for result in results for run in result["runs"]), jobs or default_jobs(device))
    if estimate.total:
        estimate.finished(_known(series))
        estimate.check(series.store.path)
        (report or print)(str(estimate))
    series.remark = estimate.remark
    series.prepare(*series.experiments.EXPERIMENTS)
    return list(series._runs.values())


def overview() -> pd.DataFrame:
    """One row per paper and profile: how many notebooks have written results here, and how their claims came out."""
    rows = []
    for slug in slugs():
        for profile in paper_module(slug, "experiments").PROFILES:
            files = sorted(output_folder(slug, Setting(profile)).glob("*.json"))
            found = tally(verdict for file in files for verdict in read_results(file)["verdicts"])
            counts = {name: found.get(name, 0) for name in (*VERDICTS, "arithmetic")}
            rows.append({"paper": slug, "profile": profile, "notebooks with results": len(files), **counts})
    return pd.DataFrame(rows)


def planned(
    slug: str,
    profile: str = "smoke",
    seeds: int | Sequence[int] | None = None,
    data: str = "embedded",
    store: str | None = None,
) -> pd.DataFrame:
    """Runs that :func:`compute` needs: columns id, run, finished. Runs that depend on results not computed yet are left out."""
    series = _open(slug, "", profile, seeds, "auto", "local", data, store, None)
    return pd.DataFrame(plan(_asked(series), series.store), columns=["id", "run", "finished"])


def _known(series: Series) -> list[str]:
    """Labels of the runs that :func:`compute` needs and finds finished."""
    return [label for _, label, finished in plan(_asked(series), series.store) if finished]


def recipes(slug: str, profile: str) -> dict[str, set[str]]:
    """Label -> recipes of the runs that a series asks for as its code is now, and of those that they contain. Runs that depend on
    results which are not in the store are left out."""
    found: dict[str, set[str]] = {}
    asked = _asked(_open(slug, "", profile, None, "auto", "local", "embedded", None, None))
    runs = {(run.label, run.fingerprint()): run for cfg in asked for run in [*all_dependencies(cfg), cfg]}
    for (label, _), run in runs.items():
        found.setdefault(label, set()).add(recipe(run))
    return found


class _NotYet(Exception):
    """Further runs depend on results that are not computed yet."""


def _asked(series: Series) -> list[Run.Config]:
    """The runs that a series asks for, as far as the store knows the results on which further ones depend."""
    asked: dict[str, Run.Config] = {}

    def runner(cfgs: Sequence[Run.Config]) -> list[Finished]:
        known = [(cfg, identity(cfg)) for cfg in cfgs]
        asked.update({ident.id: cfg for cfg, ident in known})
        found = [run for cfg, ident in known if (run := series.store.get(cfg, ident))]
        if len(found) < len(cfgs):
            raise _NotYet
        return found

    for experiment in series.experiments.EXPERIMENTS.values():
        with suppress(_NotYet):
            experiment(series.setting, runner)
    return list(asked.values())


def papers_folder(slug: str) -> Path:
    """``papers/<slug>`` of the project: claims, published numbers, committed results."""
    return root() / "papers" / slug


def reports_folder() -> Path:
    """``$ORCHARD_OUTPUT``, else ``reports`` under the project's root."""
    chosen = os.environ.get("ORCHARD_OUTPUT")
    return Path(chosen).expanduser().absolute() if chosen else root() / "reports"


def output_folder(slug: str, setting: Setting, device: str = "auto") -> Path:
    """Where a series in this setting writes results and figures.

    Data, seeds and a device that are not the default ones have a folder of their own: ``smoke-text-1f0c2a9b`` ends with the
    first digits of the manifest's SHA-256, because two corpora may have one name.
    """
    parts = [setting.profile]
    if setting.data != "embedded":
        parts.append(f"{data_label(setting.data)}-{text_source(setting.data).build().manifest().sha256[:8]}")
    if setting.seeds is not None:
        listed = "-".join(map(str, setting.seeds))
        parts.append(f"seeds-{listed}" if len(listed) <= 40 else f"seeds-{sha256(listed.encode()).hexdigest()[:8]}")
    if device not in ("auto", resolve_device("auto")):
        parts.append(f"on-{device}")
    return reports_folder() / slug / "-".join(parts)


def data_label(data: str) -> str:
    """A short name for DATA that can stand in a file name."""
    path = Path(data)
    name = data if data == "embedded" else path.resolve().name if path.exists() else data.replace("/", "--")
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in name)[:60]


def read_results(path: Path) -> dict[str, Any]:
    """The results of a notebook. Raises ``OrchardError`` for a file that is cut or damaged."""
    try:
        content: dict[str, Any] = json.loads(path.read_text("utf-8"))
        for verdict in content["verdicts"]:
            verdict["id"], verdict["verdict"], verdict["rule"], verdict["reason"]
    except (ValueError, KeyError, TypeError) as error:
        raise OrchardError(f"{path} is damaged ({type(error).__name__}: {error}); run its notebook again") from None
    return content


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that it appears complete or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def relative(path: Path) -> str:
    """A path as a reader at the project's root would type it."""
    try:
        return str(path.relative_to(root()))
    except ValueError:
        return str(path)
