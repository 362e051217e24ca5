"""The optimum of logistic regression on a9a, by scikit-learn's lbfgs: writes sklearn_a9a.json beside this script.

    python tests/truth/sklearn_a9a.py ../shared/data/a9a/a9a

The objective is the mean of the log loss plus half the decay times the squared norm of the weights, without the bias.
"""

import json
import pathlib
import sys

import numpy
import sklearn
from sklearn.datasets import load_svmlight_file
from sklearn.linear_model import LogisticRegression

# Strong, so that plain descent arrives soon.
DECAY = 0.05

x, y = load_svmlight_file(sys.argv[1], n_features=123)
fitted = LogisticRegression(C=1 / (DECAY * len(y)), solver="lbfgs", tol=1e-10, max_iter=20000).fit(x, y)
weights, bias = fitted.coef_[0], fitted.intercept_[0]
loss = numpy.mean(numpy.logaddexp(0, -y * (x @ weights + bias)))
found = {
    "made_with": f"scikit-learn {sklearn.__version__}",
    "weight_decay": DECAY,
    "loss": loss,
    "objective": loss + DECAY / 2 * (weights @ weights),
}
path = pathlib.Path(__file__).with_suffix(".json")
path.write_text(json.dumps(found, indent=1) + "\n")
