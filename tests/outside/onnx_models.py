"""Runs exported models and compares their outputs with Downhill's predictions: onnx_models.py FOLDER

The folder contains models.json and the files that it names; tests/it/onnx.rs writes them. Prints a line for each model and kind of
input: `ok`, and the largest difference.
"""
import csv
import json
import pathlib
import sys

import numpy as np
import onnx
import onnxruntime

FOLDER = pathlib.Path(sys.argv[1])
TOLERANCE = 1e-5
# Downhill's, as docs/your-data.md lists them.
MISSING = {"", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "?",
           "N/A", "NA", "NULL", "NaN", "None", "n/a", "null", "nan"}
ELEMENTS = {"f32": np.float32, "u8": np.uint8}


def table(path, inputs):
    """The inputs for the rows of a CSV file, by name."""
    with open(path, newline="") as file:
        header, *rows = csv.reader(file)
    columns = {name: [row[number].strip() for row in rows] for number, name in enumerate(header)}
    feed = {}
    for value in inputs:
        cells = columns[value.name if value.name in columns and value.name not in OUTPUTS else value.name.removesuffix("_input")]
        if value.type == "tensor(float)":
            cells = [np.nan if cell in MISSING else float(cell) for cell in cells]
            feed[value.name] = np.array(cells, np.float32)[:, None]
        else:
            assert value.type == "tensor(string)", value
            feed[value.name] = np.array(cells, object)[:, None]
    return feed


def feed(model, session, kind):
    """What to feed to a model: the cells of the data, or its encoded features."""
    inputs = session.get_inputs()
    if kind == "columns" and model["input"].endswith(".csv"):
        return table(FOLDER / model["input"], inputs)
    name = model["input"] if kind == "columns" else f"{model['name']}.features.f32"
    values = np.fromfile(FOLDER / name, ELEMENTS[name.rsplit(".")[-1]]).reshape(-1, model["features"])
    assert [value.name for value in inputs] == ["pixels" if values.dtype == np.uint8 else "features"]
    return {inputs[0].name: values}


def is_integer(name):
    try:
        return str(int(name)) == name
    except ValueError:
        return False


def check(model, kind):
    """Returns the largest difference between the outputs of a model and what Downhill predicts."""
    path = FOLDER / (f"{model['name']}.onnx" if kind == "columns" else f"{model['name']}.features.onnx")
    onnx.checker.check_model(onnx.load(path), full_check=True)
    session = onnxruntime.InferenceSession(path)
    cells = feed(model, session, kind)
    outputs = session.run(None, cells)
    if model["refuses_missing"]:
        first = next(iter(cells.values()))
        first[0, 0] = "" if first.dtype == object else np.nan
        without = session.run(None, cells)[-1]
        assert np.isnan(without[0]).all() and np.array_equal(without[1:], outputs[-1][1:]), without[0]
    names = [value.name for value in session.get_outputs()]
    classes = model["classes"]
    expected = np.fromfile(FOLDER / f"{model['name']}.expected.f32", np.float32).reshape(-1, max(1, len(classes)))
    assert all(len(output) == len(expected) for output in outputs)
    if not classes:
        assert names == ["variable"], names
        difference = np.max(np.abs(outputs[0] - expected) / np.abs(expected))
        assert difference <= TOLERANCE, difference
        return difference
    assert names == ["label", "probabilities"], names
    label, probabilities = outputs
    assert label.dtype == (np.int64 if all(map(is_integer, classes)) else object), label.dtype
    difference = np.max(np.abs(probabilities - expected))
    assert difference <= TOLERANCE, difference
    largest = np.sort(expected, axis=1)
    is_certain = largest[:, -1] - largest[:, -2] >= TOLERANCE
    differ = is_certain & (label.astype(str) != np.array(model["labels"]))
    assert not differ.any(), np.flatnonzero(differ)
    return difference


OUTPUTS = {"label", "probabilities", "variable"}
failed = False
for model in json.loads((FOLDER / "models.json").read_text()):
    for kind in "columns", "features":
        try:
            print(f"ok {model['name']} from {kind}: {check(model, kind):.1e}")
        except Exception as error:
            failed = True
            print(f"FAILED {model['name']} from {kind}: {type(error).__name__} {error}")
sys.exit(failed)
