"""Scores of predictions on six data sets, by scikit-learn: writes sklearn_scores.json beside this script.

    python tests/truth/sklearn_scores.py ../shared/data

The predictions are those of quickly fitted models, rounded to four digits so that some of them are equal.
"""

import csv
import json
import pathlib
import sys

import numpy
import sklearn
from sklearn import metrics
from sklearn.linear_model import LinearRegression, LogisticRegression, PoissonRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

folder = pathlib.Path(sys.argv[1])
SAMPLES = 150


def table(path, target, drop=()):
    with open(folder / path) as file:
        rows = [row for row in csv.DictReader(file) if "" not in row.values() and "NA" not in row.values()]
    names = [name for name in rows[0] if name != target and name not in drop]
    x = numpy.array([[float(row[name]) for name in names] for row in rows])
    return x, numpy.array([row[target] for row in rows])


def halves(x, y):
    """Fits on the samples at even positions, and predicts the first ones at odd positions."""
    return x[::2], y[::2], x[1::2][:SAMPLES], y[1::2][:SAMPLES]


def classification(name, x, y):
    classes, y = numpy.unique(y, return_inverse=True)
    x, y, test_x, test_y = halves(x, y)
    # Few iterations, so that the predictions are not too good.
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=3, C=0.01)).fit(x, y)
    probabilities = model.predict_proba(test_x).round(4).astype(numpy.float32)
    labels = range(len(classes))
    predicted = probabilities.argmax(axis=1)
    one_hot = numpy.eye(len(classes))[test_y]
    if len(classes) == 2:
        area = metrics.roc_auc_score(test_y, probabilities[:, 1])
        precision = metrics.average_precision_score(test_y, probabilities[:, 1])
    else:
        area = numpy.mean([metrics.roc_auc_score(one_hot[:, c], probabilities[:, c]) for c in labels])
        precision = metrics.average_precision_score(one_hot, probabilities)
    by_class = metrics.precision_recall_fscore_support(test_y, predicted, labels=labels, zero_division=0)

    def average(kind):
        values = metrics.precision_recall_fscore_support(test_y, predicted, average=kind, zero_division=0)
        return dict(zip(["precision", "recall", "f1"], map(float, values)))

    return {
        "name": name,
        "head": "logistic" if len(classes) == 2 else "softmax",
        "classes": [str(c) for c in classes],
        "targets": test_y.tolist(),
        # A logistic model predicts the probability of the second class only.
        "predictions": (probabilities[:, 1] if len(classes) == 2 else probabilities).ravel().tolist(),
        "scores": {
            "accuracy": metrics.accuracy_score(test_y, predicted),
            "balanced_accuracy": metrics.balanced_accuracy_score(test_y, predicted),
            "roc_auc": float(area),
            "average_precision": float(precision),
            "macro_average": average("macro"),
            "weighted_average": average("weighted"),
            "classes": [
                {"precision": float(p), "recall": float(r), "f1": float(f), "samples": int(s)}
                for p, r, f, s in zip(*by_class)
            ],
            "confusion": metrics.confusion_matrix(test_y, predicted, labels=labels).tolist(),
        },
    }


def regression(name, x, y, model=LinearRegression()):
    x, y, test_x, test_y = halves(x, y.astype(float))
    predicted = make_pipeline(StandardScaler(), model).fit(x, y).predict(test_x).astype(numpy.float32)
    scores = {
        "rmse": metrics.root_mean_squared_error(test_y, predicted),
        "mae": metrics.mean_absolute_error(test_y, predicted),
        "r_squared": metrics.r2_score(test_y, predicted),
    }
    head = "squared-error"
    if isinstance(model, PoissonRegressor):
        head = "poisson"
        scores["poisson_deviance"] = metrics.mean_poisson_deviance(test_y, predicted)
    return {
        "name": name,
        "head": head,
        "classes": [],
        "targets": test_y.tolist(),
        "predictions": predicted.tolist(),
        "scores": {key: float(value) for key, value in scores.items()},
    }


adult = ("workclass", "education", "marital_status", "occupation", "relationship", "race", "sex", "native_country")
penguins = table("penguins/penguins.csv", "species", drop=("island", "sex"))
housing = table("california-housing/housing.csv", "median_house_value", drop=("ocean_proximity",))
# The mass of a penguin, rounded to kilograms, is a count.
mass, counts = penguins[0][:, :3], numpy.round(penguins[0][:, 3] / 1000)
cases = [
    classification("adult", *table("adult/adult_train.csv", "class", drop=adult)),
    classification("penguins", *penguins),
    classification("digits", *table("digits/digits.csv", "digit")),
    classification("breast-cancer", *table("breast-cancer/breast_cancer.csv", "diagnosis")),
    regression("diabetes", *table("diabetes/diabetes.csv", "progression")),
    regression("california-housing", *housing),
    regression("penguin-mass", mass, counts, PoissonRegressor()),
]
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps({"scikit-learn": sklearn.__version__, "cases": cases}) + "\n")
