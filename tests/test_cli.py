"""The command line as a user meets it: streams, exit codes, one line an error, nothing lost."""

import gzip
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import typer

import gpunet
from gpunet import run, view
from gpunet.cli import _run, app
from gpunet.config import Config, Switch, flag
from gpunet.gates import ACTIVATIONS, LOSSES

PENGUINS = ["train", "penguins", "--device", "cpu", "--epochs", "3"]
ROWS = "\n".join(f"{i % 7},{i % 3},{'yes' if i % 7 > 3 else 'no'}" for i in range(60))
TABLE = f"a,b,y\n{ROWS}\n"


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gpunet"])
    return tmp_path


class Outcome:
    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("gpunet: error: ")]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]):
    def call(*arguments: str) -> Outcome:
        capsys.readouterr()
        code = _run(list(arguments))
        seen = capsys.readouterr()
        outcome = Outcome(code, seen.out, seen.err)
        assert "\x1b" not in seen.out + seen.err
        assert "Traceback" not in seen.err
        assert len(outcome.errors) == (1 if code else 0), seen.err
        return outcome

    return call


def process(*arguments: str, **more: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "gpunet", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )


# What is printed where


def test_train_saves_a_run_and_prints_the_metrics_on_stdout(cli) -> None:
    done = cli(*PENGUINS)
    assert done.code == 0
    assert done.out.split()[:3] == ["train", "validation", "test"]
    assert "accuracy" in done.out
    lines = [line for line in done.err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    run = Path("runs/penguins-1")
    files = {path.name for path in run.iterdir()}
    told = {"config.toml", "run.json", "status.json", "metrics.jsonl", "timing.jsonl"}
    told |= {"schema.json", "split.safetensors"}
    assert files == told | {"model.safetensors", "summary.json", "checkpoints", ".lock"}
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    assert "gpunet predict runs/penguins-1" in done.err


def test_what_columns_are_taken_for_is_shown_and_saved(cli, tmp_path: Path) -> None:
    lines = [f"{i},{i % 7},{'NA' if i % 9 == 0 else i * 0.5},{i % 2}" for i in range(300)]
    Path("t.csv").write_text("\n".join(["key,day,size,y", *lines]))
    done = cli("train", "t.csv", "-t", "y", "-e", "1", "-o", "r", "--types", "day=category")
    assert done.code == 0
    assert "column  kind      values  missing  evidence" in done.err
    assert "warning: key: rises by one" in done.err
    found = json.loads(Path("r/schema.json").read_text())
    assert found["schema"] == "gpunet.schema/1"
    assert found["target"]["task"] == "binary"
    kinds = {each["name"]: (each["kind"], each["confidence"] == 1) for each in found["columns"]}
    assert kinds["day"] == ("category", True)
    assert kinds["size"] == ("numeric", False)
    assert kinds["key"] == ("id", False)
    assert all(each["values"] + each["missing"] == found["rows"] for each in found["columns"])
    assert [len(each["warnings"]) for each in found["columns"]] == [1, 0, 0]


def test_the_json_of_training(cli) -> None:
    done = cli(*PENGUINS, "--json", "-o", "here")
    found = json.loads(done.out)
    assert found == json.loads(Path("here/summary.json").read_text())
    assert found["schema"] == "gpunet.train/1"
    assert {"run", "device", "steps", "seconds", "rows_per_second", "loss", "metrics"} <= set(found)
    assert set(found["loss"]) == {"first", "last"}
    assert set(found["metrics"]) == {"train", "validation", "test"}
    assert set(found["metrics"]["test"]) == {"accuracy", "log_loss", "auc"}
    assert (found["targets"], found["resampled"]["test"]) == ({}, "rows")


def test_what_is_warned_of_is_in_the_json_and_told_once(cli) -> None:
    rng = np.random.default_rng(0)
    rows = [f"{2 * y + 1},{b},{y}" for y, b in rng.normal(size=(120, 2))]
    Path("t.csv").write_text("\n".join(["leak,b,y", *rows, *rows[:40]]))
    short = ("train", "t.csv", "-t", "y", "--preset", "plain", "-e", "2", "--hidden", "8", "-q")
    done = cli(*short, "--json", "-o", "one")
    warned = json.loads(done.out)["warnings"]
    for words in (
        "leak: puts the rows in the order of y",
        "held out are in the training",
        "baseline",
    ):
        assert any(words in text for text in warned), words
    assert done.err.splitlines() == [f"gpunet: warning: {text}" for text in warned]
    plan = cli(*short[:-1], "--dry-run", "--json")
    assert json.loads(plan.out)["warnings"] == warned[: len(plan.err.splitlines())]
    several = cli(*short, "--seeds", "2", "--json")
    assert several.err.count("leak: puts the rows") == 1
    assert all("leak: " in str(run["warnings"]) for run in json.loads(several.out)["runs"])


def test_what_takes_long_in_silence_has_a_line_for_it(cli, monkeypatch) -> None:
    said = []
    monkeypatch.setattr(view, "phase", lambda *given: said.append(given) or nullcontext())
    train = ("train", "penguins", "-o", "a", "-e", "1", "--preset", "plain", "--no-baselines")
    cli(*train)
    cli("resume", "a", "--epochs", "+1", "-q")
    judging = "judging what was trained"
    assert said[:2] == [("reading and encoding penguins", False), (judging, False)]
    assert said[2:] == [("reading and encoding the data of a", True), (judging, True)]


def test_quiet_changes_no_result(cli) -> None:
    loud, quiet = cli(*PENGUINS, "-o", "loud"), cli(*PENGUINS, "-o", "quiet", "--quiet")
    warned = [line for line in loud.err.splitlines() if line.startswith("gpunet: warning: ")]
    assert quiet.err.splitlines() == warned
    assert quiet.out == loud.out
    model = "model.safetensors"
    assert Path("loud", model).read_bytes() == Path("quiet", model).read_bytes()


def test_quiet_hides_no_warning_and_tells_where_it_saved(cli) -> None:
    rng = np.random.default_rng(0)
    rows = "".join(f"{a},{a + b / 9}\n" for a, b in rng.standard_normal((200, 2)))
    Path("t.csv").write_text(f"a,y\n{rows}")
    short = ("train", "t.csv", "-t", "y", "-e", "1", "--preset", "fast", "-q")
    done = cli(*short)
    *warned, last = done.err.splitlines()
    assert any("worse than the linear baseline: rmse on test" in line for line in warned)
    assert all(line.startswith("gpunet: warning: ") for line in warned)
    assert last == "saved in runs/t-1"
    named = cli(*short, "-o", "named")
    assert named.err.splitlines() == warned
    repeated = cli(*short, "--seeds", "2").err.splitlines()
    assert any(line.startswith("gpunet: warning: seed0: worse than") for line in repeated)
    assert repeated[-1] == "saved in runs/t-2, runs/t-3"


def test_the_header_of_a_resumed_run_tells_all_its_epochs(cli) -> None:
    short = ("train", "penguins", "--device", "cpu", "-e", "1", "-o", "run")
    assert " · 1 epoch · " in cli(*short).err
    done = cli("resume", "run", "--epochs", "+2")
    assert " · 3 epochs · " in done.err
    assert "epoch 3/3" in done.err


def test_a_plan_says_what_is_not_learnt_from_and_why_the_cpu_in_a_word() -> None:
    from dataclasses import replace

    from gpunet import job
    from gpunet.follow import _plan_facts

    table = {"day": [*range(40)], "who": ["a", "b"] * 20, "x": [3, 1, 2, 5] * 10, "y": [1, 2] * 20}
    flags = {"target": "y", "time": "day", "device": "cpu", "preset": "plain"}
    planned = job.plan(table, flags)
    reason = "no CuPy: ModuleNotFoundError: No module named 'cupy'"
    planned = replace(planned, choice=replace(planned.choice, reason=reason))
    facts = dict(_plan_facts(planned))
    assert facts["data"].endswith(
        "(by day: validation from 28 on, test from 34 on; day is not learnt from)"
    )
    assert facts["device"] == "cpu, fp32 (no CuPy)"
    named = job.plan(table, {**flags, "features": "day,x"})
    assert dict(_plan_facts(named))["data"].endswith(
        "(by day: validation from 28 on, test from 34 on)"
    )


@pytest.mark.parametrize(
    ("seconds", "said"), [(5.76, "5.76 s a step, over 1 step"), (0.0123, "12.3 ms a step, over")]
)
def test_long_steps_are_told_in_seconds(seconds: float, said: str) -> None:
    from gpunet.follow import _outlook_facts
    from gpunet.outlook import Outlook

    facts = dict(_outlook_facts(Outlook((), 3, 1.0, 1, 1, 1, 1, 0, 1, 1, seconds, 0, 0)))
    assert said in facts["time"]
    assert facts["steps"] == "3, 1 epoch"


def test_rows_that_a_run_has_learned_from_are_warned_of(cli, monkeypatch) -> None:
    Path("t.csv").write_text(TABLE)
    Path("new.csv").write_text(f"{TABLE}1,1,no\n")
    cli("train", "t.csv", "-t", "y", "-o", "run", "-e", "1")
    seen = "run has seen rows of t.csv: unless they are others now, that flatters it"
    for command in ("evaluate", "importance", "slices"):
        assert seen in cli(command, "run", "t.csv").err
        assert cli(command, "run", "new.csv").err == ""
        Path("copy.csv").write_text(TABLE)
        for copy in ("copy.csv", "-"):
            with open("copy.csv") as file:
                monkeypatch.setattr(sys, "stdin", file)
                assert cli(command, "run", copy).err == (
                    "gpunet: warning: these rows are those that run was trained on: "
                    "that flatters it; run/summary.json judges it on rows held out\n"
                )
    Path("run/run.json").write_text("{")  # a model needs none
    assert cli("evaluate", "run", "t.csv").code == 0


def test_the_config_of_a_run_gives_the_same_run(cli) -> None:
    cli(*PENGUINS[:-2], "-o", "first", "--dropout", "0.1", "--hidden", "20,10", "--steps", "30")
    again = cli("train", "penguins", "--config", "first/config.toml", "-o", "second")
    assert again.code == 0
    first, second = (run.unpack(Path(name, "model.safetensors"))[0] for name in ("first", "second"))
    assert all((first[name] == second[name]).all() for name in first)


def test_the_config_of_a_run_says_how_to_use_it(cli, monkeypatch) -> None:
    Path("a table.csv").write_text(TABLE)
    cli("train", "a table.csv", "-t", "y", "-e", "1", "-o", "first")
    line = Path("first/config.toml").read_text().splitlines()[0]
    assert line == f"# gpunet train '{os.path.abspath('a table.csv')}' --config THIS_FILE"
    words = shlex.split(line.replace("THIS_FILE", "first/config.toml"))
    assert cli(*words[2:], "-o", "again").code == 0
    with open("a table.csv") as file:
        monkeypatch.setattr(sys, "stdin", file)
        cli("train", "-", "-t", "y", "-e", "1", "-o", "piped")
    piped = Path("piped/config.toml").read_text().splitlines()[0]
    assert piped == "# gpunet train - --config THIS_FILE"
    gpunet.train({"a": np.arange(50.0), "y": np.arange(50) % 2}, "y", epochs=1, out="memory")
    assert "the data were in memory" in Path("memory/config.toml").read_text().splitlines()[0]


def test_settings_without_data_are_the_lectures_or_an_error(cli) -> None:
    Path("its.toml").write_text("steps = 3\n")
    done = cli("train", "--config", "its.toml", "--json")
    assert json.loads(done.out)["data"] == "lecture"
    Path("other.toml").write_text('scaling = "robust"\n')
    for command in ("train", "plan"):
        done = cli(command, "--config", "other.toml")
        assert done.code == 2
        assert "DATA is missing: other.toml does not fit the lecture's; name" in done.errors[0]
    Path("wrong.toml").write_text('lr = "x"\n')
    assert "lr (file) x: must be" in cli("train", "--config", "wrong.toml").errors[0]


def test_evaluate_and_predict(cli, somewhere: Path) -> None:
    Path("t.csv").write_text(TABLE)
    assert cli("train", "t.csv", "-t", "y", "-o", "run", "--epochs", "30").code == 0
    judged = cli("evaluate", "run", "t.csv", "--json")
    assert json.loads(judged.out)["metrics"]["accuracy"] > 0.9
    table = "k,y\n" + "u,no\nv,yes\n" * 30
    Path("k.csv").write_text(table)
    cli("train", "k.csv", "-t", "y", "-o", "k", "--epochs", "1", "--preset", "plain")
    Path("odd.csv").write_text(f"{table}w,yes\nw,no\nw,\n")
    told = cli("evaluate", "k", "odd.csv", "--drop-missing-target").err
    assert "warning: k: a category that training never saw in 2 rows" in told
    Path("new.csv").write_text("b,a,extra\n1,6,x\n2,0,y\n")
    done = cli("predict", "run", "new.csv", "--proba", "--keep", "extra")
    assert done.out.splitlines()[0] == "extra,prediction,p_no,p_yes"
    assert [line.split(",")[1] for line in done.out.splitlines()[1:]] == ["yes", "no"]
    saved = cli("predict", "run", "new.csv", "-o", "out.jsonl", "--json")
    assert json.loads(saved.out)["rows"] == 2
    assert len(Path("out.jsonl").read_text().splitlines()) == 2


def test_rows_without_a_target_are_left_out_where_that_is_asked(cli) -> None:
    Path("t.csv").write_text(TABLE)
    for name in ("run", "other"):
        cli("train", "t.csv", "-t", "y", "-o", name, "-e", "3", "--preset", "plain")
    gaps = TABLE.replace(",no\n", ",\n", 4)
    Path("gaps.csv").write_text(gaps)
    Path("full.csv").write_text("".join(x for x in gaps.splitlines(True) if x[-2] != ","))
    Path("none.csv").write_text("a,b,y\n1,2,\n3,4,\n")
    commands = (["evaluate", "run"], ["compare", "run", "other"], ["importance", "run"])
    for command in (*commands, ["slices", "run", "--least", "5"]):
        done = cli(*command, "gaps.csv")
        assert done.code == 65
        assert "those rows out with --drop-missing-target" in done.errors[0]
        done = cli(*command, "gaps.csv", "--drop-missing-target")
        assert done.err == "gpunet: warning: left out 4 rows without a target\n"
        assert done.out.replace("gaps", "full") == cli(*command, "full.csv").out
        for more in ([], ["--drop-missing-target"]):
            assert "y has no value in any row; gpunet pred" in cli(*command, "none.csv", *more).err
    assert cli("slices", "run", "--drop-missing-target").code == 2


def test_predict_overwrites_nothing_unasked(cli) -> None:
    Path("t.csv").write_text(TABLE)
    cli("train", "t.csv", "-t", "y", "-o", "run", "--epochs", "1")
    Path("there.csv").write_text("mine")
    done = cli("predict", "run", "nowhere.csv", "-o", "there.csv")
    assert done.code == 73
    assert "there.csv: is there already; name another with -o, or add --over" in done.errors[0]
    assert Path("there.csv").read_text() == "mine"
    assert cli("predict", "run", "t.csv", "-o", "there.csv", "--overwrite").code == 0
    assert Path("there.csv").read_text().startswith("prediction")
    Path("link.csv").symlink_to("t.csv")
    for more in ([], ["--overwrite"]):
        done = cli("predict", "run", "t.csv", "-o", "link.csv", *more)
        assert done.code == 2
        assert "link.csv: is what is read here" in done.errors[0]
    assert Path("t.csv").read_text() == TABLE
    assert cli("predict", "run", "t.csv", "--overwrite").code == 2


def test_the_ending_of_predictions_may_be_in_capitals(cli) -> None:
    cli(*PENGUINS, "-o", "run")
    assert cli("predict", "run", "penguins", "-o", "P.JSONL").code == 0
    assert "prediction" in json.loads(Path("P.JSONL").read_text().splitlines()[0])


def test_a_kept_column_that_a_prediction_would_replace(cli) -> None:
    Path("t.csv").write_text(TABLE.replace("a,b,y", "a,prediction,y"))
    cli("train", "t.csv", "-t", "y", "-o", "run", "--epochs", "1")
    done = cli("predict", "run", "t.csv", "--keep", "a,prediction")
    assert done.code == 2
    assert "--keep prediction: a column of the predictions has that name" in done.errors[0]


def test_a_category_never_seen_is_counted_on_stderr(cli) -> None:
    rows = "\n".join(f"{'red' if i % 2 else 'green'},{i % 2}" for i in range(50))
    Path("t.csv").write_text(f"colour,y\n{rows}\n")
    cli("train", "t.csv", "-t", "y", "--task", "binary", "-o", "run", "--epochs", "2")
    Path("new.csv").write_text("colour\nblue\nred\n")
    done = cli("predict", "run", "new.csv")
    assert done.code == 0
    assert "colour: a category that training never saw in 1 row\n" in done.err


def test_graph_prints_the_lectures_numbers(cli) -> None:
    done = cli("graph", "(x+y)*z", "x=-2", "y=5", "z=-4", "--json")
    found = json.loads(done.out)
    assert found["schema"] == "gpunet.graph/1"
    grads = {node["name"]: node["grad"] for node in found["nodes"]}
    values = {node["name"]: node["value"] for node in found["nodes"]}
    assert [grads[name] for name in "xyz"] == [-4, -4, 3]
    assert -12 in values.values()
    told = cli("graph", "(x+y)*z", "x=-2", "y=5", "z=-4", "--explain")
    assert "multiply" in told.out


@pytest.mark.parametrize("before", [(), ("--",), ("--json", "--seed", "3")])
def test_a_formula_may_begin_with_a_minus(cli, before: tuple[str, ...]) -> None:
    done = cli("graph", *before, "-log(sigmoid(x))", "x=1")
    assert (done.code, done.err) == (0, "")
    assert "0.313" in done.out


def test_an_option_that_is_misspelt_is_named_and_not_the_formula(cli) -> None:
    done = cli("graph", "-x*y", "x=1", "y=2", "--explian")
    assert (done.code, done.out) == (2, "")
    assert "no such option: --explian; did you mean --explain?" in done.err


def test_graph_takes_arrays(cli) -> None:
    np.save("m.npy", np.eye(2))
    done = cli("graph", "sum(sigmoid(x @ w))", "x=@m.npy", "w=randn(2,3)", "--seed", "1", "--json")
    again = cli("graph", "sum(sigmoid(x @ w))", "x=@m.npy", "w=randn(2,3)", "--seed", "1", "--json")
    assert done.out == again.out
    assert done.code == 0


def test_gradcheck(cli) -> None:
    done = cli("gradcheck", "sum(exp(x)*y)", "x=[1,2]", "y=[3,4]", "--json")
    results = json.loads(done.out)["results"]
    assert all(result["ok"] and result["error"] <= 1e-6 for result in results)
    everything = cli("gradcheck", "--all")
    assert everything.code == 0
    assert "WRONG" not in everything.out


def test_info_and_the_sets(cli) -> None:
    assert json.loads(cli("info", "--json").out)["schema"] == "gpunet.info/1"
    assert "auto" in cli("info").out
    assert "penguins" in cli("data", "list").out
    names = {each["name"] for each in json.loads(cli("data", "list", "--json").out)["sets"]}
    assert names == {"lecture", "spiral", "penguins", "digits"}
    assert "bill_length_mm" in cli("data", "show", "penguins").out
    shown = json.loads(cli("data", "show", "penguins", "--json").out)
    assert shown["rows"] == 344


def test_plan_prints_the_launches_of_a_step(cli) -> None:
    done = cli("plan", "lecture", "--device", "cpu", "--json")
    found = json.loads(done.out)
    names = [each["launch"] for each in found["launches"]]
    assert found["schema"] == "gpunet.plan/1"
    assert names.count("gemm") == 5
    assert names[0] == "tick"
    assert names[-1] == "sgd"
    flops = sum(each["flops"] or 0 for each in found["launches"])
    assert flops == 2 * 64 * (1000 * 100 + 100 * 10) * 2 + 2 * 64 * 100 * 10
    unshuffled = cli("plan", "lecture", "--device", "cpu", "--precision", "fp64", "--json").out
    assert "gather" not in {each["launch"] for each in json.loads(unshuffled)["launches"]}
    assert "arena" in cli("plan", "penguins", "--hidden", "8").out
    assert cli("plan", "penguins", "--epochs", "0").code == 2


def test_version_and_no_arguments(cli) -> None:
    from gpunet import __version__

    assert cli("--version").out == f"gpunet {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["data"]])
def test_without_a_command_the_help_is_printed_as_it_is(arguments: list[str], capsys) -> None:
    assert _run(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    first, *lines = seen.err.splitlines()
    assert first == " ".join(["Usage: gpunet", *arguments, "[OPTIONS] COMMAND [ARGS]..."])
    assert any(line.split()[:1] == ["data" if not arguments else "show"] for line in lines)


# Wrong options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["trian"], r"no such command: trian; did you mean train\?$"),
        (["help"], "no such command: help; gpunet --help lists them$"),
        (["data", "lits"], r"no such command: lits; did you mean list\?$"),
        (["data", "help"], "no such command: help; gpunet data --help lists them$"),
        (["train", "penguins", "--epochz", "3"], "no such option: --epochz; did you mean --epochs"),
        (["train", "penguins", "--lerning-rate", "1"], "--lerning-rate; did you mean --lr"),
        (["train", "penguins", "--n_epochs=3"], "did you mean --epochs"),
        (["predict", "run", "--learning-rate", "1"], "no such option: --learning-rate$"),
        (["train", "penguins", "--zzz"], "no such option: --zzz$"),
        (["graph", "x", "x=1", "--jsn"], "no such option: --jsn; did you mean --json"),
        (["graph", "-x", "x=1", "-s", "3"], "'-s' is not NAME=VALUE"),
        (["train", "penguins", "--epochs", "x"], "--epochs x: must be a valid integer"),
        (["train", "penguins", "--precision", "bf16", "--device", "cpu"], "is for CUDA"),
        (["train", "penguins", "--precision", "tf32", "--device", "cpu"], "is for CUDA"),
        (["train", "penguins", "--device", "gpu"], "no device 'gpu'"),
        (["train", "penguins", "--activation", "x*foo(x)"], "column 3.*foo"),
        (["train", "penguins", "--activation", "swish"], "no such activation; use sigmoid, tanh"),
        (["train", "penguins", "--activation", "x+y"], "formula"),
        (["train", "spiral", "-t", "x1", "--loss", "pinball(2)"], "quantile between 0 and 1"),
        (["train", "spiral", "-t", "x1", "--loss", "huber(-1)"], "wants a positive delta"),
        (["train", "penguins", "--loss", "hinge"], "no such loss; use softmax_cross_entropy"),
        (["train", "penguins", "--loss", "mean_squared"], "does not fit a multiclass target"),
        (["train", "penguins", "--loss", "pred-target"], "does not fit a multiclass target"),
        (
            [
                "train",
                "spiral",
                "--target",
                "x1",
                "--task",
                "regression",
                "--label-smoothing",
                "0.1",
            ],
            "--label-smoothing has no meaning",
        ),
        (["train", "penguins", "--validation", "0", "--schedule", "plateau"], "validation"),
        (["train", "lecture", "--patience", "3"], "--patience needs a validation part"),
        (["train", "penguins", "--steps", "3", "--epochs", "3"], "conflict"),
        (["train", "penguins", "--hidden", "none", "--activation", "tanh"], "conflict"),
        (["train", "penguins", "--clamp", "on"], "no meaning for a multiclass target"),
        (["train", "penguins", "--target-transform", "log"], "no meaning for a multiclass target"),
        (["train", "digits", "--one-hot-levels", "8"], "one-hot levels are for tables"),
        (["train", "digits", "--scaling", "robust"], "robust scaling is for tables"),
        (["train", "digits", "--preset", "fast"], "--preset fast is for tables; these are arrays"),
        (["train", "penguins", "-t", "sex,sex"], "--target sex,sex: sex is named twice$"),
        (
            ["train", "penguins", "--fade", "cosine", "--dropout", "0", "--weight-decay", "0"],
            "--fade cosine ends nothing: dropout and weight decay are 0",
        ),
        (["train", "lecture", "--scaling", "standard"], "no meaning for --no-standardise"),
        (["train", "penguins", "--scaling", "robust", "--no-standardise"], "conflict"),
        (["train", "penguins", "--steps", "9", "--warmup", "100"], "never ends"),
        (["graph", "x", "x=1", "--seed", "-1"], "--seed -1: must be greater than or equal to 0"),
        (["train", "penguins", "--cv", "1"], "--cv 1: must be greater than or equal to 2"),
        (["importance", "run", "--repeats", "x"], "--repeats x: must be a valid integer"),
        (["train", "penguins", "-o"], "-o: requires an argument$"),
        (["train", "penguins", "--no-bias=3"], "--no-bias: does not take a value$"),
        (["predict", "run"], "DATA is missing; gpunet predict --help"),
        (["train", "t.csv", "y z"], r"y z: gpunet train takes no .*; did you mean -t 'y z'\?$"),
        (["predict", "run", "t.csv", "out.csv"], r"did you mean -o out.csv\?$"),
        (["evaluate", "run", "t.csv", "y"], "y: .*; gpunet evaluate --help says what it takes$"),
        (["train", "penguins", "-o", "-"], "-o -: stdout is no directory; name one$"),
        (["tune", "penguins", "-o", "-"], "-o -: stdout is no directory; name one$"),
        (["graph", "x+"], "column"),
        (["graph", "x+y", "x=1"], "y"),
        (["graph", "x", "x=__import__('os')"], "x"),
        (["predict", "run", "x.csv", "-o", "out.xls"], "no format"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_option_is_exit_2(cli, arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert re.search(message, done.errors[0]), done.errors[0]
    assert done.out == ""
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "x", "--drop", "g", "--drop=t"], "--drop is given .* in one: --drop g,t$"),
        (["train", "x", "-t", "y", "--target", "z"], "--target is given .*: --target y,z$"),
        (["train", "x", "--lr", "0.1", "--lr", "0.1"], "--lr is given twice; leave one out$"),
        (["data", "show", "x", "--header", "--no-header"], "--header/--no-header is given twice"),
        (["verify", "x", "-e", "1", "-e", "2"], "--epochs is given twice; .*: --epochs 1,2$"),
        (["train", "x", "-ta", "-t", "b"], "--target is given twice; .*: --target a,b$"),
        (["predict", "x", "y", "--keep", "a b", "--keep", "c"], ".*: --keep 'a b,c'$"),
        (["--version", "--version"], "--version is given twice"),
    ],
)
def test_an_option_that_is_given_twice(cli, arguments: list[str], message: str) -> None:
    done = cli(*arguments)
    assert done.code == 2
    assert re.search(message, done.errors[0]), done.errors[0]


def test_every_command_refuses_what_is_given_twice() -> None:
    from typer.main import get_command

    from gpunet.cli import app
    from gpunet.options import Command, Group

    top = get_command(app)
    assert isinstance(top, Group)
    below = [top.commands["data"], *top.commands.values(), *top.commands["data"].commands.values()]
    assert len(below) > 15
    assert all(isinstance(each, (Command, Group)) for each in below)


def test_a_flag_takes_the_place_of_the_recipes_and_the_files_length(cli) -> None:
    lecture = cli("train", "lecture", "--epochs", "5", "--device", "cpu", "--json")
    assert json.loads(lecture.out)["steps"] == 5
    assert cli("train", "lecture", "--momentum", "0.9", "--steps", "3").code == 0
    cli(*PENGUINS, "-o", "run")
    shorter = cli("train", "penguins", "--config", "run/config.toml", "--steps", "4", "--json")
    assert json.loads(shorter.out)["steps"] == 4


def test_a_flag_takes_the_place_of_what_a_file_or_a_recipe_switches(cli) -> None:
    from typer.main import get_command

    from gpunet.cli import app

    switches = [each.name for each in fields(Config) if each.type in (bool, Switch)]
    known = {
        (*each.opts, *each.secondary_opts) for each in get_command(app).commands["train"].params
    }
    assert {(flag(name), flag(f"no_{name}")) for name in switches} <= known
    done = cli("train", "--bias", "--steps", "3", "--json")
    assert json.loads(done.out)["parameters"] == 1000 * 100 + 100 + 100 * 10 + 10


def test_stdout_carries_one_thing(cli) -> None:
    cli(*PENGUINS, "-o", "run")
    done = cli("predict", "run", "penguins", "--json")
    assert done.code == 2
    assert "both for stdout" in done.errors[0]


def test_a_full_disk_behind_stdout_is_exit_74() -> None:
    with open("/dev/full", "w") as full:
        code = [sys.executable, "-P", "-m", "gpunet", "info"]
        done = subprocess.run(code, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 74, done.stderr


def test_a_full_disk_behind_stderr_ends_nothing(tmp_path: Path) -> None:
    code = [sys.executable, "-P", "-m", "gpunet", *PENGUINS, "-o", str(tmp_path / "run"), "--json"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(code, stdout=subprocess.PIPE, stderr=full, text=True)
    assert done.returncode == 0
    assert json.loads(done.stdout)["ended"]


@pytest.mark.parametrize("is_heard", [False, True])
def test_a_terminal_that_goes_away_is_no_fault_of_the_run(tmp_path: Path, is_heard: bool) -> None:
    """Its hang-up stops the run cleanly; where that is not heard, the run goes on to its end."""
    pty = pytest.importorskip("pty")
    own, theirs = pty.openpty()
    steps = "1000000" if is_heard else "10000"
    given = ["lecture", "--device", "cpu", "--steps", steps, "-o", str(tmp_path / "run")]
    start = "import os, sys, signal; from gpunet.cli import main; "
    start += "" if is_heard else "signal.signal(signal.SIGHUP, signal.SIG_IGN); "
    code = [sys.executable, "-P", "-c", f"{start}main(sys.argv[1:])", "train", *given]
    run = subprocess.Popen(code, stdout=subprocess.DEVNULL, stderr=theirs)
    os.close(theirs)
    said = b""
    while b"step" not in said and b"epoch" not in said:
        said += os.read(own, 4096)
    os.close(own)
    if is_heard:
        run.send_signal(signal.SIGHUP)
    assert run.wait(120) == (128 + signal.SIGHUP if is_heard else 0)
    status = json.loads((tmp_path / "run/status.json").read_text())
    assert status["state"] == ("stopped" if is_heard else "done")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_what_may_not_be_read_is_exit_77(cli) -> None:
    cli(*PENGUINS, "-o", "run")
    Path("own.toml").write_text("epochs = 1")
    for path in ("run", "own.toml"):
        os.chmod(path, 0)
    try:
        for arguments in (("resume", "run"), ("train", "penguins", "-c", "own.toml")):
            assert cli(*arguments).code == 77
    finally:
        os.chmod("run", 0o700)


def test_that_a_path_may_be_read_is_asked_where_it_is_read(cli, monkeypatch) -> None:
    """Typer's own answer would be a fault of the command line's."""
    cli(*PENGUINS, "-o", "run")
    Path("own.toml").write_text("epochs = 1")
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    assert cli("verify", "run").code == 0
    assert cli("evaluate", "run", "penguins").code == 0
    assert cli("compare", "run", "run").code == 0
    assert cli("train", "penguins", "-c", "own.toml", "--dry-run").code == 0
    assert cli("resume", "run").code == 0


def test_a_run_without_a_model_yet_says_so(cli) -> None:
    cli(*PENGUINS, "-o", "run")
    Path("run/model.safetensors").unlink()
    done = cli("predict", "run", "penguins")
    assert done.code == 66
    assert "run: the run has no model yet; its first checkpoint brings one" in done.errors[0]


def test_what_can_be_typed_next_is_quoted(cli) -> None:
    told = cli(*PENGUINS, "-o", "./-one two").err
    assert "gpunet evaluate './-one two' DATA" in told


@pytest.mark.parametrize("arguments", [["info"], ["--help"], ["data", "list", "--json"]])
def test_a_result_for_a_closed_stdout_is_exit_74(arguments: list[str]) -> None:
    code = [sys.executable, "-P", "-m", "gpunet", *arguments]
    done = subprocess.run(["bash", "-c", f"{shlex.join(code)} >&-"], stderr=-1, text=True)
    assert done.returncode == 74
    assert re.fullmatch("gpunet: error: stdout: Bad file descriptor\n", done.stderr)


@pytest.mark.parametrize("width", [5, 40, 60, 80, 200])
def test_the_help_cuts_no_name(cli, monkeypatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    for command in ("train", "tune", "plan"):
        text = " ".join(cli(command, "--help").out.split())
        words = set(text.split())
        assert words >= {flag(each.name) for each in fields(Config)}
        assert words >= {"--no-shuffle", "--no-header", "--out", "--json"} or command == "plan"
        assert "Defaults are those of arrays, and of --preset plain" in text
    for line in cli("train", "--help").out.splitlines():
        is_whole = "gpunet train" in line or " / --no-" in line
        assert is_whole or len(line) <= max(width, 32)
    assert "..." not in cli("--help").out.partition("Commands:")[2]


def test_the_help_says_what_every_argument_and_option_is() -> None:
    commands = {**typer.main.get_command(app).commands}
    commands |= commands.pop("data").commands
    for name, command in commands.items():
        for each in command.params:
            assert each.help or each.name == "help", f"{name} {each.name}"


def test_the_help_names_every_activation_and_loss(cli) -> None:
    told = re.findall(r"[a-z_]+", cli("train", "--help").out)
    assert set(told) >= {*ACTIVATIONS, *LOSSES}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("gpunet train --preset ", ["auto", "fast", "best", "plain"]),
        ("gpunet tune --schedule co", ["constant", "cosine", "coslog4"]),
        ("gpunet train --lr ", []),
    ],
)
def test_completion_offers_the_values_of_closed_choices(cli, monkeypatch, words, offered) -> None:
    monkeypatch.setenv("_GPUNET_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", str(words.count(" ")))
    assert cli().out.split() == offered


@pytest.mark.parametrize("more", [{}, {"PYTHONUNBUFFERED": "1"}])
def test_a_pipe_that_takes_little_at_a_time_gets_all(more: dict[str, str]) -> None:
    text = "from gpunet.view import put; put('a' * 300_000); put(b'b')"
    source, sink = os.pipe()
    os.set_blocking(sink, False)
    writing = [sys.executable, "-P", "-c", text]
    writer = subprocess.Popen(writing, stdout=sink, env=os.environ | more)
    os.close(sink)
    time.sleep(0.5)
    with os.fdopen(source) as pipe:
        assert pipe.read() == "a" * 300_000 + "b"
    assert writer.wait() == 0


def test_what_may_not_be_reached_is_exit_77_and_named(cli, monkeypatch) -> None:
    Path("t.csv").write_text(TABLE)
    cli("train", "t.csv", "-t", "y", "-e", "1", "-o", "run")
    real = os.stat

    def forbid(path: object, *rest: object, **more: object) -> os.stat_result:
        if str(path).startswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return real(path, *rest, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "stat", forbid)
    for arguments in (
        ["train", "t.csv", "-t", "y", "-o", "locked/run"],
        ["predict", "run", "t.csv", "-o", "locked/p.csv"],
        ["resume", "locked/run"],
        ["tune", "t.csv", "-t", "y", "-o", "locked/study"],
    ):
        done = cli(*arguments)
        assert (done.code, done.errors[0].split(": ")[2][:7]) == (77, "locked/"), done.err


def test_the_model_is_saved_before_it_is_judged(cli, monkeypatch) -> None:
    from gpunet import metrics

    def broken(*given: object) -> float:
        raise ZeroDivisionError

    monkeypatch.setattr(metrics, "auc", broken)
    assert _run([*PENGUINS, "-o", "run", "--validation", "0"]) == 1
    assert Path("run/model.safetensors").exists()


def test_a_missing_target_lists_the_columns(cli) -> None:
    Path("t.csv").write_text(TABLE)
    done = cli("train", "t.csv")
    assert done.code == 2
    assert all(name in done.errors[0] for name in ("--target", "a", "b", "y"))


# Bad files

IDX = struct.pack(">HBBIII", 0, 8, 3, 10, 2, 2) + bytes(40)


def bad_files() -> dict[str, tuple[str | bytes | None, int, str]]:
    """Name → content (None: not there), exit code, and what the message says."""
    packed = gzip.compress(TABLE.encode())
    return {
        "missing.csv": (None, 66, "missing.csv"),
        "empty.csv": ("", 65, "no rows|empty"),
        "header.csv": ("a,b,y\n", 65, "no rows"),
        "newlines.csv": ("\n\n\n", 65, "no rows|empty"),
        "junk.csv": (bytes(range(256)) * 20, 65, "junk.csv"),
        "cut.csv.gz": (packed[:-10], 65, "cut.csv.gz"),
        "cut.parquet": (b"PAR1" + bytes(50), 65, "cut.parquet"),
        "cut.npz": (b"PK\x03\x04" + bytes(30), 65, "cut.npz"),
        "lies-idx3-ubyte": (IDX[:-1], 65, "idx"),
        "short.csv": ("a,b,y\n1,2,0\n3,4\n5,6,1\n", 65, "3"),
        "twice.csv": ("a,a,y\n1,2,0\n3,4,1\n", 65, "more than once"),
        "text.csv": (TABLE.replace("\n3,", "\nthree,", 1), 65, "three"),
        "infinite.csv": (TABLE.replace("\n3,", "\ninf,", 1), 65, "inf"),
        "one.csv": ("a,b,y\n1,2,no\n", 65, "row"),
        "constant.csv": (TABLE.replace("yes", "no"), 65, "y"),
        "unanswered.csv": (re.sub("yes|no", "", TABLE), 65, "y"),
        "partly.csv": (TABLE.replace(",no\n", ",\n", 2), 65, "--drop-missing-target"),
        "absent.csv": (TABLE.replace("a,b,y", "a,b,z"), 65, "no column 'y'|'y'|y"),
    }


@pytest.mark.parametrize("name", bad_files())
def test_a_bad_file_is_named_with_what_is_wrong(cli, name: str) -> None:
    content, code, message = bad_files()[name]
    if content is not None:
        Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    done = cli("train", name, "--target", "y")
    assert done.code == code, done.errors
    assert re.search(message, done.errors[0]), done.errors[0]
    assert not Path("runs").exists()


def test_a_directory_that_holds_no_images(cli) -> None:
    Path("folder").mkdir()
    assert cli("train", "folder", "-t", "y").code == 65


def test_a_directory_that_may_not_be_read(cli, monkeypatch) -> None:
    def forbid(path: Path) -> None:
        raise PermissionError(13, "Permission denied", path)

    Path("folder").mkdir()
    monkeypatch.setattr(Path, "iterdir", forbid)
    assert cli("train", "folder", "-t", "y").code == 77


def test_objects_in_an_npz_are_refused(cli) -> None:
    np.savez("o.npz", x=np.array([{}, 1], dtype=object), y=np.arange(2))
    assert cli("train", "o.npz").code == 65


def test_a_class_with_one_row_is_a_note(cli) -> None:
    Path("t.csv").write_text(TABLE + "1,1,maybe\n")
    done = cli("train", "t.csv", "-t", "y", "--epochs", "2")
    assert done.code == 0
    assert "maybe" in done.err


def test_names_with_markup_and_control_characters_are_shown_plainly(cli) -> None:
    Path("t.csv").write_text(TABLE.replace("a,b,y", "[/red],b\x1b[31m,y"))
    assert cli("train", "t.csv", "-t", "y", "-o", "run", "--epochs", "2").code == 0
    shown = cli("data", "show", "t.csv")
    assert "[/red]" in shown.out
    assert "\\x1b[31m" in shown.out
    Path("new.csv").write_text("q\n1\n")
    assert "[/red]" in cli("predict", "run", "new.csv").errors[0]


def test_ten_thousand_columns(cli) -> None:
    head = ",".join(f"c{i}" for i in range(10_000))
    rows = [",".join(["1", str(i)] * 5_000) + f",{i % 2}" for i in range(40)]
    Path("wide.csv").write_text(f"{head},y\n" + "\n".join(rows) + "\n")
    done = cli("train", "wide.csv", "-t", "y", "--task", "binary", "--epochs", "1")
    assert done.code == 0


def test_runs_that_are_there_already(cli) -> None:
    Path("taken").mkdir()
    Path("taken/file").touch()
    done = cli(*PENGUINS, "-o", "taken")
    assert done.code == 73
    assert list(Path("taken").iterdir()) == [Path("taken/file")]


def test_models_that_are_none(cli) -> None:
    Path("m.safetensors").write_bytes(b"junk" * 10)
    assert cli("evaluate", "m.safetensors", "penguins").code == 76
    assert cli("evaluate", "nothing", "penguins").code == 66
    assert "nnn: File name too long" in cli("evaluate", "n" * 300, "penguins").errors[0]


# Devices


def test_cuda_that_is_not_there_is_exit_69_before_data_is_read(cli) -> None:
    from gpunet.device import resolve
    from gpunet.errors import Unavailable

    try:
        resolve("cuda")
    except Unavailable:
        done = cli("train", "no-such-file.csv", "-t", "y", "--device", "cuda")
        assert done.code == 69
        assert re.search("no CUDA|no CuPy", done.errors[0])


def test_without_cupy_too() -> None:
    code = (
        "import sys; sys.modules['cupy'] = None\n"
        "from gpunet.cli import main\n"
        "main(['train', 'nothing.csv', '-t', 'y', '--device', 'cuda'])"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.returncode == 69
    assert "gpunet[cuda13]" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_pandas_is_not_imported_where_it_is_installed(monkeypatch) -> None:
    Path("also").mkdir()
    Path("also/pandas.py").write_text("open('seen', 'w').close()\n__version__ = '3.0.0'\n")
    Path("t.jsonl").write_text("".join(f'{{"a": {i % 7}, "y": "{i % 2}"}}\n' for i in range(60)))
    monkeypatch.setenv("PYTHONPATH", os.path.abspath("also"))
    running = process("train", "t.jsonl", "-t", "y", "--preset", "plain", "-e", "2")
    _, err = running.communicate(timeout=60)
    assert running.returncode == 0, err
    assert not Path("seen").exists()


def test_several_networks_are_told(cli) -> None:
    done = cli("train", "penguins", "-e", "2", "--folds", "2", "-o", "run")
    assert "kept        2 networks, each of its best epoch of 2, " in done.err
    assert "2 of 15 → 128" in done.err
    assert json.loads(Path("run/summary.json").read_text())["networks"] == 2


# Ends that come early


def test_a_diverging_run_is_exit_80_and_names_the_step(cli) -> None:
    arguments = ["--activation", "relu", "--norm", "none", "--optimizer", "sgd", "--lr", "1e6"]
    done = cli("train", "penguins", *arguments)
    assert done.code == 80
    assert re.search(r"diverged at step \d+", done.errors[0])


def test_a_run_that_diverges_late_keeps_its_best_model(cli, monkeypatch) -> None:
    from gpunet import loop

    open_step = loop._Net.open_step

    def poisoned(self: loop._Net, done: int) -> None:
        if done == 4 * self.taken.steps:
            self.store.values[:] = np.nan
        open_step(self, done)

    monkeypatch.setattr(loop._Net, "open_step", poisoned)
    done = cli("train", "penguins", "--preset", "fast", "--epochs", "10", "-o", "run")
    assert done.code == 80
    assert "the model of epoch 4 is kept" in done.errors[0]
    assert json.loads(Path("run/summary.json").read_text())["ended"] == "diverged"
    assert cli("evaluate", "run", "penguins").code == 0


def wait_for(pattern: str, running: subprocess.Popen[str]) -> str:
    seen = ""
    assert running.stderr is not None
    while not re.search(pattern, seen):
        line = running.stderr.readline()
        assert line, seen
        seen += line
    return seen


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_so(number: int, code: int) -> None:
    running = process("train", "digits", "--epochs", "5000", "--patience", "0", "-o", "run")
    wait_for("epoch 3/", running)
    running.send_signal(number)
    out, err = running.communicate(timeout=20)
    assert running.returncode == code
    assert "stopped after step" in err
    assert "gpunet resume run" in err
    assert out == ""
    assert json.loads(Path("run/summary.json").read_text())["ended"] == "stopped"
    assert json.loads(Path("run/status.json").read_text())["state"] == "stopped"
    assert Path("run/model.safetensors").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="no such signals here")
def test_ctrl_c_while_it_imports_is_no_traceback(tmp_path: Path) -> None:
    (tmp_path / "typer.py").write_text("import time\nprint(1, flush=True)\ntime.sleep(60)\n")
    running = subprocess.Popen(
        [sys.executable, "-P", "-m", "gpunet", "train"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert running.stdout.readline() == "1\n"
    running.send_signal(signal.SIGINT)
    assert running.communicate(timeout=20)[1] == ""
    assert running.returncode == -signal.SIGINT


def test_a_second_ctrl_c_stops_at_once() -> None:
    running = process(
        "train",
        "digits",
        "--epochs",
        "5000",
        "--patience",
        "0",
        "-o",
        "run",
        "--hidden",
        "4000,4000",
        "--batch-size",
        "1250",
    )
    wait_for(r"run +run", running)
    time.sleep(0.5)
    running.send_signal(signal.SIGINT)
    time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=20)
    assert running.returncode == 130


def test_a_reader_that_leaves_is_no_error() -> None:
    running = process("predict", "run", "big.csv")
    running.communicate(timeout=20)
    Path("t.csv").write_text(TABLE)
    subprocess.run(
        [sys.executable, "-P", "-m", "gpunet", "train", "t.csv", "-t", "y", "-o", "r", "-q"],
        check=True,
    )
    Path("big.csv").write_text("a,b\n" + "1,2\n" * 200_000)
    command = f"{sys.executable} -P -m gpunet predict r big.csv | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines() == ["prediction", "0"]
    assert done.stderr == ""


def test_stdin_and_stdout_are_dashes() -> None:
    Path("t.csv").write_text(TABLE)
    running = process(
        "train", "-", "-t", "y", "--json", "-q", "--epochs", "2", stdin=subprocess.PIPE
    )
    out, err = running.communicate(TABLE, timeout=30)
    assert running.returncode == 0, err
    assert json.loads(out)["rows"]["train"] > 0


@pytest.mark.parametrize("place", [0, 1, 5])
def test_debug_shows_the_traceback_wherever_it_stands(place: int) -> None:
    arguments = ["train", "nothing.csv", "-t", "y"]
    arguments.insert(place, "--debug")
    running = process(*arguments)
    _, err = running.communicate(timeout=20)
    assert running.returncode == 66
    assert "Traceback" in err


def test_memory_that_is_not_there_is_exit_71(cli) -> None:
    done = cli("train", "penguins", "--hidden", "1000000000,1000000000")
    assert done.code == 71
    assert "out of memory" in done.errors[0]


def test_a_run_directory_that_cannot_be_made(cli, monkeypatch) -> None:
    Path("file").touch()
    done = cli(*PENGUINS, "-o", "file/run")
    assert done.code == 74
    assert re.search("file/run: .*/file is a file$", done.errors[0])
    if os.geteuid():
        Path("locked").mkdir(mode=0o500)
        assert cli(*PENGUINS, "-o", "locked/run").code == 77


def test_a_table_larger_than_the_memory_it_may_take_is_trained_on_or_refused(cli) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    rng = np.random.default_rng(0)
    x = rng.standard_normal((5000, 60))
    columns = {f"x{i}": column for i, column in enumerate(x.T)}
    parquet.write_table(pa.table({**columns, "y": x[:, 0] > 0}), "big.parquet", row_group_size=500)
    arguments = ("-t", "y", "--epochs", "2", "--batch-size", "50", "--max-memory")
    done = cli("train", "big.parquet", *arguments, "1100K", "--json")
    assert done.code == 0
    summary = json.loads(done.out)
    assert summary["rows"] == {"train": 3500, "validation": 750, "test": 750}
    assert summary["metrics"]["test"]["accuracy"] > 0.9
    done = cli("train", "big.parquet", *arguments, "200K", "-o", "refused")
    assert done.code == 71
    assert "; --max-memory allows 200.0 KiB; use fewer columns" in done.errors[0]
    assert not Path("refused").exists()


def test_runs_of_the_same_data_tell_of_them_once(cli) -> None:
    rows = "".join(f'"{i},{i:03}.5",{i % 7},{i % 2}\n' for i in range(1, 60))
    Path("t.csv").write_text("price,a,y\n" + rows)
    done = cli("train", "t.csv", "-t", "y", "-e", "1", "--seeds", "3", "-q", "--preset", "plain")
    assert done.code == 0
    assert done.err.count("numbers with thousands separators") == 1
