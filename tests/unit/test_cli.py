"""The ``orchard`` command: one message for every expected error, exit statuses, quick start, the commands' output."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from orchard.cli import main
from orchard.data import ByteTokenizer
from orchard.errors import OrchardError
from orchard.nn import Attention, Block, Decoder, FeedForward
from orchard.notebooks import Execution
from orchard.notebooks.parameters import parse_value
from orchard.runs import Store, execute
from orchard.train import TextModel, save_model
from toy_runs import Square


def call(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    """Exit status, standard output and error of a command."""
    try:
        main(arguments)
        status = 0
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    said = capsys.readouterr()
    return status, said.out, said.err


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store that the commands use by default here, with two runs."""
    store = Store()
    execute([Square.Config(number=n, label=f"square of {n}") for n in (3, 4)], store, jobs=1, report=lambda line: None)
    return store


@pytest.mark.parametrize(
    ("text", "value"),
    [("smoke", "smoke"), ("2", 2), ("[0, 1]", [0, 1]), ("None", None), ("null", None), ("1e-3", 1e-3), ("0.5", 0.5), ("true", True),
     ("2026-11-23", "2026-11-23"), ("my file #2.txt", "my file #2.txt"), ("a: b", "a: b"), ("'2'", "2"), ("@x", "@x"), ("{", "{"),
     ("../shared/data", "../shared/data"), ("", None)],
)  # fmt: skip
def test_values_of_parameters(text: str, value: object) -> None:
    assert parse_value("SEEDS", text) == value
    assert type(parse_value("SEEDS", text)) is type(value)


@pytest.mark.parametrize("name", ["DATA", "STORE", "PROFILE", "ENGINE", "DEVICE"])
def test_parameters_that_are_text_stay_text(name: str) -> None:
    assert [parse_value(name, text) for text in ("2024", "no", "1e3", "[0]", "'x'")] == [
        "2024",
        "no",
        "1e3",
        "[0]",
        "'x'",
    ]
    assert parse_value("STORE", "None") is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["reproduce", "ratention"], ["no paper 'ratention'", "did you mean 'rattention'?"]),
        (["reproduce", "rattention", "-p", "PROFIL", "smoke"], ["no parameter 'PROFIL'", "did you mean 'PROFILE'?"]),
        (["reproduce", "rattention", "--profile", "smok"], ["'smok'", "did you mean 'smoke'?"]),
        (["reproduce", "rattention", "--profile", "paper"], ["too large for notebooks", "--dry-run"]),
        (["reproduce", "rattention", "-p", "DATA", "./absent"], ["./absent", "give an existing file or folder"]),
        (["reproduce", "rattention", "-p", "DATA", "nobody/nothing"], ["nobody/nothing", "embedded"]),
        (["reproduce", "rattention", "--engine", "slrum"], ["slrum", "local"]),
        (["reproduce", "rattention", "-p", "PROFILE"], ["-p takes a name and a value"]),
        (["reproduce", "rattention", "--jobs", "0"], ["--jobs 0", "from 1 to "]),
        (["reproduce", "rattention", "--timeout", "-1"], ["a limit of -1 s", "above 0"]),
        (["reproduce", "rattention", "-p", "SEEDS", "0"], ["SEEDS = 0", "1 or more"]),
        (["run", "rattention", "--jobs", "-1"], ["--jobs -1", "from 1 to "]),
        (["run", "rattention", "--seeds", "0"], ["SEEDS = 0", "1 or more"]),
        (["report", "--publish", "smoke"], ["smoke are not published", "laptop or gpu"]),
        (["run", "ratention"], ["did you mean 'rattention'?"]),
        (["run", "rattention", "--device", "abacus"], ["abacus", "cpu"]),
        (["runs", "import", "absent.tar"], ["absent.tar"]),
        (["runs", "show", "f00"], ["f00", "orchard runs ls"]),
        (["new", "Not A Slug"], ["'Not A Slug'", "not_a_slug"]),
        (["claims", "ratention"], ["did you mean 'rattention'?"]),
    ],
)
def test_expected_errors_are_one_message(
    capsys: pytest.CaptureFixture[str], arguments: list[str], words: list[str]
) -> None:
    status, out, err = call(capsys, *arguments)
    assert status in (1, 2)
    assert err.startswith("orchard: ")
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    for word in words:
        assert word in err


def test_bad_input_and_failure_have_their_own_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "run", "ratention")[0] == 2
    assert call(capsys, "runs", "show", "f00")[0] == 1
    assert call(capsys, "no-such-command")[0] == 2
    assert call(capsys, "--help")[0] == 0


def test_debug_shows_the_traceback() -> None:
    with pytest.raises(OrchardError, match="ratention"):
        main(["--debug", "run", "ratention"])


def test_a_failed_notebook_sets_the_status_and_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = [Execution("p/01", tmp_path, True, 1.0, None, 1), Execution("p/02", tmp_path, False, 1.0, "cell 3: E", 1)]
    monkeypatch.setattr("orchard.notebooks.reproduce", lambda *_, **__: done)
    status, out, err = call(capsys, "reproduce", "rattention", "--jobs", "1")
    assert status == 1
    assert err == "orchard: 1 of 2 notebooks failed: p/02\n"
    assert "report: " in out


def test_a_full_disk_is_one_message(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device", "some/file")

    monkeypatch.setattr("orchard.report.build", full)
    status, _, err = call(capsys, "report")
    assert status == 1
    assert err.count("\n") == 1
    assert "No space left on device: 'some/file'" in err


def test_starting_imports_nothing_heavy() -> None:
    look = """
import sys
from orchard.cli import main
try:
    main(["--help"])
except SystemExit:
    pass
print(sorted({"torch", "pandas", "matplotlib", "lightning", "papermill", "nbformat", "datasets", "numpy"} & set(sys.modules)))"""
    done = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_runs_ls_show_export_import_verify_rm(capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path) -> None:
    first, second = store.ls()
    out = call(capsys, "runs", "ls")[1]
    assert first.id in out
    assert "square of 4" in out
    shown = json.loads(call(capsys, "runs", "show", first.id[:10])[1])
    assert shown["result"] == {"square": 9}
    file, other = tmp_path / "runs.tar", tmp_path / "other"
    assert "1 runs in" in call(capsys, "runs", "export", str(file), second.id)[1]
    assert "1 runs are in" in call(capsys, "runs", "import", str(file), "--store", str(other))[1]
    assert [run.id for run in Store(other).ls()] == [second.id]
    (first.folder / "notes.txt").write_text("mine")
    status, out, _ = call(capsys, "runs", "verify")
    assert status == 0
    assert "notes.txt: no file of the run" in out
    (first.folder / "result.json").write_text("{}")
    status, out, err = call(capsys, "runs", "verify")
    assert status == 1
    assert first.id in out
    assert "1 runs in" in err
    assert "damaged or cannot be read" in err
    assert "1 more are damaged or cannot be read" in call(capsys, "runs", "ls")[2]
    (store.path / ".work" / second.id).mkdir(parents=True)
    assert "1 folders deleted" in call(capsys, "runs", "clean")[1]
    assert call(capsys, "runs", "clean", "--days", "-1")[0] == 2
    assert call(capsys, "runs", "rm", second.id)[0] == 0
    assert Store().ls() == []


def test_list_doctor_and_claims(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "list")
    assert status == 0
    assert "rattention" in out
    assert "gpu, paper" in out
    status, out, _ = call(capsys, "doctor")
    assert status == 0
    for word in ("Python", "torch", "hardware", "speed of one core", "store", "free disk", "DejaVuSans"):
        assert word in out
    assert call(capsys, "claims")[0] == 0


def test_claims_shows_all_that_a_verdict_rests_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = {
        "id": "C7", "verdict": "refuted", "rule": "> 0", "scale": "laptop scale: 0.3 M parameters",
        "effect": -0.4, "low": -0.5, "high": -0.3, "gate": "recall 0.98; 0.9 needed",
        "control": "fails it: +0.1 [+0.0, +0.2]", "parts": [{"seeds": 5}, {"seeds": 3}],
        "reason": "0 of 2 parts pass, 2 contradict",
    }  # fmt: skip
    exact = shown | {"id": "C10", "effect": 0.0, "low": None, "high": None, "reason": "x", "gate": "", "control": ""}
    exact["claim"] = {"kind": "arithmetic"}
    monkeypatch.setenv("ORCHARD_OUTPUT", str(tmp_path))
    (tmp_path / "sbp" / "laptop").mkdir(parents=True)
    (tmp_path / "sbp" / "laptop" / "01_build.json").write_text(json.dumps({"verdicts": [exact, shown]}))
    status, out, _ = call(capsys, "claims", "sbp")
    assert status == 0
    assert "sbp, profile laptop, from reports" in out
    text = " ".join(out.split())
    first = "C7 refuted -0.4 [-0.5, -0.3] > 0 0 of 2 parts pass, 2 contradict at laptop scale 3 seeds gate: recall 0.98; 0.9"
    assert text.index(first) < text.index("fails it: +0.1 [+0.0, +0.2]") < text.index("C10 refuted 0 > 0 x at laptop")
    assert "at laptop scale 3 seeds arithmetic" in text
    assert "1 refuted, 1 arithmetic (laptop scale: 0.3 M parameters)" in text


def test_published_scale_is_shown_without_being_run(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "run", "rattention", "--profile", "paper", "--dry-run")
    assert status == 0
    for word in ("3B", "12B", "2,877,292,544", "12,582,912,000", "launch: "):
        assert word in out


def test_letters_that_the_terminal_lacks_cost_nothing() -> None:
    command = [sys.executable, "-m", "orchard.cli", "claims"]
    done = subprocess.run(command, capture_output=True, env=os.environ | {"PYTHONIOENCODING": "ascii"}, check=False)
    assert done.returncode == 0, done.stderr
    assert b"claim" in done.stdout


def test_a_caller_in_python_keeps_its_own_signals(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    for arguments in (["list"], ["run", "nothing"]):
        call(capsys, *arguments)
        assert signal.getsignal(signal.SIGTERM) is before


def test_a_wide_table_has_a_column_for_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    status, out, _ = call(capsys, "run", "sbp", "--profile", "paper", "--dry-run")
    assert status == 0
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 100
    assert next(line for line in out.splitlines() if line.startswith("share")).split() == [
        "share",
        "0.375",
        "0.125",
        "0.25",
    ]


def test_report_without_notebooks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORCHARD_OUTPUT", str(tmp_path / "reports"))
    status, out, _ = call(capsys, "report")
    assert status == 0
    assert "report: " in out
    assert "No notebook has been executed yet" in (tmp_path / "reports" / "index.html").read_text()


def test_generate_continues_a_text_with_a_saved_model(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    layer = Block.Config(
        attention=Attention.Config(num_heads=2, window=8), feed_forward=FeedForward.Config(hidden_dim=8)
    )
    cfg = Decoder.Config(vocab_size=257, dim=8, layers=[layer])
    saved = TextModel(cfg, cfg.build(), ByteTokenizer.Config().build())
    folder = str(save_model(tmp_path / "model", saved))
    status, out, _ = call(capsys, "generate", folder, "--prompt", "def f", "--tokens", "6", "--seed", "3")
    assert (status, out) == (0, "def f" + saved.complete("def f", 6, 0.8, 3) + "\n")
    status, _, err = call(capsys, "generate", folder, "--top-p", "1.5")
    assert (status, "top_p=1.5" in err) == (2, True)
    status, _, err = call(capsys, "generate", str(tmp_path / "none"))
    assert (status, "no saved model at" in err) == (1, True)


def test_only_trainings_can_be_saved(capsys: pytest.CaptureFixture[str], store: Store, tmp_path: Path) -> None:
    status, _, err = call(capsys, "runs", "save", store.ls()[0].id, str(tmp_path / "model"))
    assert status == 1
    assert "classes of toy_runs are not read from a file" in err  # it is no module of the library
    assert not (tmp_path / "model").exists()


def test_a_warning_is_one_line_without_a_place_in_our_code(tmp_path: Path) -> None:
    rows = [{"text": f"text number {i}, long enough to be a document"} for i in range(60)] + [{"text": None}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["run", "rattention", "--data", str(tmp_path / "rows.jsonl"), "--dry-run", "--store", str(tmp_path / "s")]
    done = subprocess.run([sys.executable, "-m", "orchard.cli", *words], capture_output=True, text=True)
    assert next(line for line in done.stderr.splitlines() if "without text" in line).startswith("warning: ")
    assert "UserWarning" not in done.stderr
