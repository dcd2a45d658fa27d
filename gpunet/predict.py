"""A saved model on new data: load it, predict, evaluate. All that it needs is in one file."""

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cached_property
from itertools import pairwise
from math import inf
from os.path import isdir, isfile
from pathlib import Path
from typing import Any

import numpy as np

from gpunet import bootstrap, loop, model, run, view
from gpunet.bootstrap import RowValues
from gpunet.config import Config, gather
from gpunet.data import Dataset, Schema, Source, read
from gpunet.data.schema import check_columns
from gpunet.data.targets import NUMBERS, by_target
from gpunet.data.unseen import Unseen
from gpunet.data.words import FORMULA, MISSING_NUMBER, NUMBER
from gpunet.device import Device, resolve
from gpunet.errors import DataError, GpunetError, InputMissing, ModelInvalid, UsageError, warn
from gpunet.inference import Inference
from gpunet.metrics import loss_metric
from gpunet.model import Ensemble, Network
from gpunet.sizes import counted

MODEL_FILE = "model.safetensors"
FORMATS = (".csv", ".parquet", ".jsonl")
WHOLE = r"^-?(0|[1-9][0-9]{0,17})$"
REAL = r"^-?(0|[1-9][0-9]{0,15})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?$"
MOST_NETWORKS = 10_000
Answers = tuple[Dataset, np.ndarray]
"""Rows with their targets, and raw predictions (n, k) for them."""
NETWORK_SETTINGS = (
    "numeric_embedding",
    "input_scale",
    "hidden",
    "activation",
    "parametric",
    "norm",
    "dropout",
    "bias",
    "init",
    "loss",
    "quantiles",
)


@dataclass(frozen=True)
class Prediction:
    """Predictions for n rows, in the order of the rows.

    output (n, k): class probabilities, of each column being true, or values in the target's
    units, of quantiles those of a target side by side, rising. labels (n,) or (n, k): what is
    predicted, written as in the training file.
    unseen: what the rows hold that training never saw.
    """

    output: np.ndarray
    labels: np.ndarray
    unseen: Unseen


@dataclass(frozen=True, eq=False, repr=False)
class Model:
    """Trained networks with the schema that encodes their inputs and names their outputs.

    Logits are divided by the temperature; of a binary target the second class is predicted where
    its probability is above the threshold.
    summary, history: how training went, as the run's `summary.json` and lines of `metrics.jsonl`
    say it; empty for a model file alone.
    """

    network: Ensemble
    schema: Schema
    config: Config
    temperature: float = 1.0
    threshold: float = 0.5
    summary: Mapping[str, Any] = field(default_factory=dict)
    history: tuple[Mapping[str, Any], ...] = ()

    def __repr__(self) -> str:
        target, size = self.schema.target, sum(w.size for w in self.network.weights.values())
        return f"<Model of {', '.join(target.names)}: {target.task}, {size:,} weights>"

    @property
    def classes(self) -> tuple[str | int | bool, ...]:
        """Of which class each column of `predict(data, proba=True)` is; () for numbers."""
        target = self.schema.target
        return target.names if target.task == "multilabel" else tuple(target.labels)

    @property
    def loss_metric(self) -> str:
        """The metric to tell its predictions from others by."""
        target = self.schema.target
        return loss_metric(target.task, bool(target.quantiles), len(target.names))

    def at(self, threshold: float | None) -> "Model":
        """The same with another threshold, None for its own; UsageError for a model that has none,
        and for what is no probability between 0 and 1."""
        if threshold is None:
            return self
        if (task := self.schema.target.task) != "binary":
            raise UsageError(f"a threshold has no meaning for a {task} target")
        if not 0 < threshold < 1:
            raise UsageError(f"threshold {threshold}: must be a number between 0 and 1")
        return replace(self, threshold=float(threshold))

    def predict(
        self,
        data: Any,
        proba: bool = False,
        device: str = "cpu",
        quantiles: bool = False,
        threshold: float | None = None,
    ) -> np.ndarray:
        """Predictions for a table, array, file or Source: labels or values (n,), or (n, k) for
        several targets; with `proba`, probabilities (n, k), for a binary target of both classes;
        with `quantiles` all of them (n, k), for a network that was trained on some. `threshold`:
        the probability above which the second class of a binary target is predicted.

        Columns are matched by name; a target is not needed. Raises DataError for columns that are
        missing, or changed their type; warns of what training never saw: categories, missing cells,
        numbers far outside its own.
        """
        if quantiles and not self.schema.target.quantiles:
            raise UsageError("this model has no quantiles", "train with quantiles=(0.1, 0.5, 0.9)")
        found = self.at(threshold).outcome(read(data), resolve(device).device)
        warn(self.notes(found.unseen))
        if quantiles:
            return found.output
        return probabilities(self.schema, found.output) if proba else found.labels

    def evaluate(
        self,
        data: Any,
        device: str = "cpu",
        drop_missing_target: bool = False,
        threshold: float | None = None,
    ) -> dict[str, float | None]:
        """The task's metrics on data that has the target, or on those of its rows that have it, at
        a `threshold` of a binary target; warns of what training never saw."""
        if np.ndim(device):
            raise UsageError("evaluate takes x and y as one", "evaluate((x, y))")
        source = read(data)
        rows = self.schema.answered(source) if drop_missing_target else None
        answers, unseen = self.answers_and_unseen(source, resolve(device).device, rows)
        warn(self.notes(unseen))
        return self.at(threshold).judge(*answers)

    def notes(self, unseen: Unseen) -> list[str]:
        """Warnings of what training never saw."""
        return unseen.notes(self.schema.columns)

    def outcome(self, source: Source, device: Device) -> Prediction:
        """Probabilities or values, labels, and what training never saw.

        Raises DataError for rows of which nothing finite comes.
        """
        x, unseen = self.schema.encode(source)
        raw = self.run(Dataset(x, None), device)
        _check_finite(source, raw)
        output = model.outcome(self.schema.target.task, raw, self.temperature)
        if self.schema.target.task == "regression":
            output = self.schema.decode(output)
        return Prediction(output, labels(self.schema, output, self.threshold), unseen)

    def answers(self, source: Source, device: Device, rows: np.ndarray | None = None) -> Answers:
        """Some rows (ascending numbers) of a source, or all, and the raw predictions for them."""
        return self.answers_and_unseen(source, device, rows)[0]

    def answers_and_unseen(
        self, source: Source, device: Device, rows: np.ndarray | None = None
    ) -> tuple[Answers, Unseen]:
        """The same, and what of those rows training never saw."""
        part, unseen = self.rows_and_unseen(source, rows)
        return (part, self.run(part, device)), unseen

    def rows_and_unseen(
        self, source: Source, rows: np.ndarray | None = None
    ) -> tuple[Dataset, Unseen]:
        """Some rows of a source, or all, to be judged on, and what of them training never saw."""
        x, unseen = self.schema.encode_rows(source, rows)
        y, chosen = self.schema.encode_target(source, rows), rows
        if chosen is None:
            chosen = np.arange(source.rows)
        weight = self.schema.encode_weight(source, chosen)
        return Dataset(x, y, weight, cluster=self.schema.clusters(source, chosen)), unseen

    def judge(self, part: Dataset, raw: np.ndarray, ranked: bool = True) -> dict[str, float | None]:
        """The task's metrics of raw predictions (n, k) for rows with a target, as `loop.judge`
        gives them."""
        y, weight = part.y, part.sample_weight
        assert y is not None
        return loop.judge(self.schema, y, raw, weight, self.temperature, self.threshold, ranked)

    def judge_each(self, part: Dataset, raw: np.ndarray) -> dict[str, dict[str, float | None]]:
        """Of several targets the metrics of each by its name; {} of one."""
        assert part.y is not None
        return loop.judge_each(self.schema, part.y, raw, part.sample_weight, self.temperature)

    def row_values(self, part: Dataset, raw: np.ndarray) -> RowValues:
        """What those metrics are made of, row by row."""
        return replace(self._row_values(part, raw), cluster=part.cluster)

    def _row_values(self, part: Dataset, raw: np.ndarray) -> RowValues:
        task, weight = self.schema.target.task, part.sample_weight
        assert part.y is not None
        if task == "multiclass":
            lean = self.schema.target.lean
            return bootstrap.of_logits(part.y, raw, weight, self.temperature, lean)
        judged = loop.in_units(self.schema, part.y, raw, self.temperature)
        if quantiles := self.schema.target.quantiles:
            return bootstrap.of_quantiles(*judged, quantiles, weight)
        return bootstrap.of_task(task, *judged, weight, self.threshold)

    def intervals(self, part: Dataset, raw: np.ndarray) -> dict[str, bootstrap.Interval]:
        """For each metric the interval in which it lies for 95 of 100 samples of rows, or of whole
        clusters of them."""
        return self.row_values(part, raw).intervals(self.config.seed)

    def judged(self, part: Dataset, raw: np.ndarray) -> dict[str, Any]:
        """All that there is to say of raw predictions: metrics, those of each of several targets,
        intervals, and what was resampled for these."""
        return {
            "metrics": self.judge(part, raw),
            "targets": self.judge_each(part, raw),
            "intervals": self.intervals(part, raw),
            "resampled": self.resampled(part),
        }

    def resampled(self, part: Dataset) -> str:
        """What is drawn for those intervals, in words: rows, or 18 groups of patient."""
        return self.schema.clustering(part.clusters)

    def save(self, path: Path | str) -> None:
        """Write all of it to one safetensors file, whole or not at all."""
        run.files.check_place(Path(path))
        run.write(Path(path), self.packed(self.network.weights))

    def packed(self, weights: dict[str, np.ndarray]) -> bytes:
        """The file's bytes, with these weights."""
        settings = {name: getattr(self.config, name) for name in NETWORK_SETTINGS}
        decided = {"temperature": self.temperature, "threshold": self.threshold}
        state = {"schema": self.schema.to_dict(), "network": settings, **decided}
        return run.pack(weights, {**state, "networks": len(self.network.networks)})

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled as it is saved, with all of its config: the kernels of formulas cannot be."""
        content = self.packed(self.network.weights)
        return _unpickled, (content, self.config, self.summary, self.history)

    def of(self, network: Network) -> "Model":
        """The model of one network alone."""
        return replace(self, network=Ensemble((network,)))

    def run(self, part: Dataset, device: Device) -> np.ndarray:
        """The raw predictions (n, k) for encoded rows: of several networks, of their mean; without
        what weights of classes in the loss have added."""
        if not part.rows:
            raise DataError("no rows to predict")
        with device.watching("use --device cpu" if device.kind != "cpu" else "take fewer rows"):
            raws = self._inference.raw(part, device)
        target = self.schema.target
        return target.unweighted(model.combined(target.task, raws))

    @cached_property
    def _inference(self) -> Inference:
        return Inference(self.network.networks, self.schema)


def load(path: Path | str) -> Model:
    """The model of a run directory, or of a model file.

    Raises InputMissing when there is none, ModelInvalid when it is damaged or not gpunet's.
    """
    path = Path(path)
    run.refuse_study(path)
    if isfile(path / run.IDENTITY) and not isfile(path / MODEL_FILE):
        raise InputMissing(f"{path}: the run has no model yet", "its first checkpoint brings one")
    if not isdir(path):
        return _model(*run.unpack(path), path)
    made = _model(*run.unpack(path / MODEL_FILE), path)
    return replace(made, summary=run.summary(path), history=tuple(run.history(path)))


def loaded(model: Model | Path | str) -> Model:
    """A model as it is, or that of a run or a file."""
    return model if isinstance(model, Model) else load(model)


def _unpickled(
    content: bytes,
    config: Config,
    summary: Mapping[str, Any],
    history: tuple[Mapping[str, Any], ...],
) -> Model:
    made = _model(*run.parse(content, "the pickle"), "the pickle")
    return replace(made, config=config, summary=summary, history=history)


def _model(weights: dict[str, np.ndarray], state: dict[str, Any], name: Path | str) -> Model:
    try:
        schema = Schema.from_dict(state["schema"])
        config = gather(recipe=dict(state["network"])).config
        names = model.labels(_count(state["networks"]))
        for label in names:
            _check_size(weights, label, schema, config)
        target = schema.target
        each = (model.build(config, schema.layout, target.outputs, target.task) for _ in names)
        networks = Ensemble(tuple(each))
        networks.load(weights)
        temperature = _number(state, "temperature", inf)
        threshold = _number(state, "threshold", 1.0)
    except ModelInvalid:
        raise
    except (GpunetError, KeyError, TypeError, ValueError) as reason:
        raise ModelInvalid(f"{name}: a model that does not fit together: {reason}") from None
    return Model(networks, schema, config, temperature, threshold)


def _number(state: dict[str, Any], name: str, below: float) -> float:
    """A number above 0 and below a limit."""
    value = state[name]
    if type(value) is not float or not 0 < value < below:
        raise ValueError(f"{name} {value!r}")
    return value


def _count(networks: object) -> int:
    if type(networks) is not int or not 1 <= networks <= MOST_NETWORKS:
        raise ValueError(f"networks: {networks} is not a number from 1 to {MOST_NETWORKS}")
    return networks


def _check_size(weights: dict[str, np.ndarray], label: str, schema: Schema, config: Config) -> None:
    """A network is built only when the file holds weights of its size."""
    first = model.input_width(config, schema.layout)
    widths = (first, *config.hidden, schema.target.outputs)
    wanted = {f"hidden{i}.weight": shape for i, shape in enumerate(pairwise(widths[:-1]), 1)}
    wanted["output.weight"] = widths[-2:]
    if schema.layout.codes:
        wanted["embedding.weight"] = (sum(schema.layout.codes), model.EMBEDDING_WIDTH)
    for name, shape in wanted.items():
        if label + name not in weights or weights[label + name].shape != shape:
            raise ValueError(f"{label}{name} is not {' x '.join(map(str, shape))}")


def labels(schema: Schema, output: np.ndarray, threshold: float = 0.5) -> np.ndarray:
    """What is predicted, from probabilities or values (n, k), written as in the training file."""
    target = schema.target
    if target.task == "multiclass":
        return np.array(target.labels)[(output * target.lean).argmax(axis=1)]
    if target.task == "binary":
        return np.array(target.labels)[(output[:, 0] > threshold).astype(np.int64)]
    if target.task == "multilabel":
        return (output > 0.5).astype(np.int64)
    values = by_target(target, output)[:, :, target.middle if target.quantiles else 0]
    return values[:, 0] if values.shape[1] == 1 else values


def probabilities(schema: Schema, output: np.ndarray) -> np.ndarray:
    """Probabilities (n, k), a column a class; DataError for a model of numbers."""
    if schema.target.task in NUMBERS:
        raise DataError(f"a {schema.target.task} model has no probabilities", "leave out --proba")
    if schema.target.task == "binary":
        return np.concatenate([1 - output, output], axis=1)
    return output


def _check_finite(source: Source, raw: np.ndarray) -> None:
    wrong = np.flatnonzero(~np.isfinite(raw).all(axis=1))
    if len(wrong):
        raise DataError(
            f"{source.title}: {len(wrong):,} of {counted(len(raw), 'row')} have no finite "
            f"prediction ({source.row(int(wrong[0]))})",
            "their values are far from all that were trained on: correct them, or leave them out",
        )


def check_destination(out: str, inputs: Iterable[Path | str] = (), overwrite: bool = False) -> None:
    """Refuse, before any work, a file of a kind or in a place that cannot be written, one of the
    inputs, and, unless it is to be overwritten, one that is there."""
    if out == "-":
        if overwrite:
            raise UsageError("--overwrite is for a file", "name it with -o")
        return
    if not ending(out):
        raise UsageError(f"{out}: no format for this name", f"use {', '.join(FORMATS)} or -")
    run.files.check_place(Path(out))
    for each in inputs:
        if run.files.is_same(out, each):
            raise UsageError(f"{out}: is what is read here", "name another file with -o")
    if not overwrite:
        run.files.check_new(Path(out), "name another with -o, or add --overwrite")


def columns(
    schema: Schema,
    source: Source,
    found: Prediction,
    keep: list[str],
    proba: bool,
    typed: bool = False,
) -> dict[str, Any]:
    """The columns of a predictions file: those kept, `prediction` (or a column a target), one
    `q<quantile>` a quantile, and with `proba` one `p_<class>` a class. `typed`: what is kept of a
    text file comes as numbers where it is numbers."""
    result: dict[str, Any] = {}
    names = schema.target.names
    if found.labels.ndim == 1:
        result["prediction"] = found.labels
    else:
        result.update({f"prediction_{name}": found.labels[:, j] for j, name in enumerate(names)})
    each = [f"q{quantile}" for quantile in schema.target.quantiles]
    named = each if len(names) == 1 else [f"{q}_{name}" for name in names for q in each]
    result.update({name: found.output[:, j] for j, name in enumerate(named)})
    if proba:
        shares = probabilities(schema, found.output)
        words = schema.target.labels or names
        result.update({f"p_{word}": shares[:, j] for j, word in enumerate(words)})
    if taken := [name for name in keep if name in result]:
        hint = f"name {taken[0]} otherwise in {source.title}, or leave it out"
        raise UsageError(f"--keep {taken[0]}: a column of the predictions has that name", hint)
    kept = _kept(source, keep)
    if typed and source.text:
        kept = {name: _as_numbers(column, schema.na) for name, column in kept.items()}
    return {**kept, **result}


def _kept(source: Source, names: list[str]) -> dict[str, Any]:
    if source.table is None:
        if names:
            raise DataError(f"--keep {names[0]}: {source.title} has no columns with names")
        return {}
    places: dict[str, Any] = dict.fromkeys(names, source.table)
    if source.aside is not None:
        places |= {name: source.aside for name in source.aside.column_names if name in places}
    check_columns(source, [n for n, place in places.items() if place is source.table], "--keep")
    return {name: place.column(name) for name, place in places.items()}


def _as_numbers(column: Any, na: Iterable[str]) -> Any:
    """A column of text as the numbers that all of its cells spell, missing ones null; as it is
    where that would lose something, as zeros in front."""
    import pyarrow as pa
    from pyarrow import compute

    missing = compute.is_in(column, pa.array([*MISSING_NUMBER, *na], pa.string()))
    cells = compute.if_else(missing, None, column)
    for pattern, kind in ((WHOLE, pa.int64()), (REAL, pa.float64())):
        if compute.all(compute.match_substring_regex(cells, pattern)).as_py():
            return cells.cast(kind)
    return column


def spreadsheet_safe(table: dict[str, Any]) -> dict[str, Any]:
    """The same columns with a ' before text that a spreadsheet would take for a formula.

    That is text that begins with = + - @, a tab or a carriage return and is no number; names too.
    """
    import pyarrow as pa

    names = _defused(pa.array(list(table), pa.string())).to_pylist()
    if len(set(names)) < len(names):
        raise DataError("--spreadsheet-safe would give two columns the same name", "leave one out")
    return {name: _defused(values) for name, values in zip(names, table.values(), strict=True)}


def _defused(values: Any) -> Any:
    import pyarrow as pa
    from pyarrow import compute

    column = values if isinstance(values, (pa.Array, pa.ChunkedArray)) else pa.array(values)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return values
    text = column.cast(pa.large_string())
    starts = compute.match_substring_regex(text, FORMULA)
    is_formula = compute.and_not(starts, compute.match_substring_regex(text, NUMBER))
    return compute.if_else(is_formula, compute.replace_substring_regex(text, "^(.)", r"'\1"), text)


def ending(out: str) -> str:
    """The format of a predictions file, by the end of its name; none for others."""
    return ".csv" if out == "-" else next(filter(out.lower().endswith, FORMATS), "")


def write(table: dict[str, Any], out: str) -> None:
    """Write columns as CSV, Parquet or JSON lines, by the name's ending; `-` is CSV on stdout."""
    content = _encode(table, ending(out))
    if out == "-":
        view.put(content)
    else:
        run.write(Path(out), content)


def _plain(column: Any) -> Any:
    """Days and times as JSON can say them: the text that CSV has, to the nanosecond."""
    import pyarrow as pa

    if not pa.types.is_temporal(column.type):
        return column
    return column.cast(pa.int64() if pa.types.is_duration(column.type) else pa.string())


def _encode(table: dict[str, Any], ending: str) -> bytes:
    import pyarrow as pa

    arrow = pa.table(table)
    sink = io.BytesIO()
    if ending == ".parquet":
        from pyarrow import parquet

        parquet.write_table(arrow, sink)
    elif ending == ".csv":
        header, lines = _csv(pa.array(arrow.column_names)), _csv(*arrow.columns)
        return ("\n".join([",".join(header.to_pylist()), *lines.to_pylist()]) + "\n").encode()
    else:
        plain = pa.table([*map(_plain, arrow.columns)], names=arrow.column_names)
        for row in plain.to_pylist():
            sink.write(
                json.dumps(view.finite(row), default=_json, allow_nan=False).encode() + b"\n"
            )
    return sink.getvalue()


def _csv(*columns: Any) -> Any:
    """The lines of columns side by side, or the cells of one: in quotes where it takes them alone,
    so that what is kept stands as it stood. Arrow's writer puts all text in quotes."""
    import pyarrow as pa
    from pyarrow import compute

    cells = [column.cast(pa.large_string()) for column in columns]
    mark, comma, nothing = (pa.scalar(each, pa.large_string()) for each in ('"', ",", ""))
    for i, text in enumerate(cells):
        doubled = compute.replace_substring(text, '"', '""')
        quoted = compute.binary_join_element_wise(mark, doubled, mark, nothing)
        is_odd = compute.match_substring_regex(text, '[",\r\n]')
        cells[i] = compute.if_else(is_odd, quoted, text)
    options = {"null_handling": "replace", "null_replacement": ""}
    return compute.binary_join_element_wise(*cells, comma, **options)


def _json(value: Any) -> int | str:
    """What JSON has no other word for: whole numbers of more than 64 bits as they are."""
    is_whole = isinstance(value, Decimal) and value.as_tuple().exponent == 0
    return int(value) if is_whole else str(value)
