"""Reads objects of JobSet and Kubeflow Trainer, a YAML stream, as the models of their API do, and says which fields these do not
know: custom_resources.py FILE. Prints how many objects it has read."""
import sys

import yaml
from kubeflow_trainer_api import models

KINDS = {
    "JobSet": models.JobsetV1alpha2JobSet,
    "ClusterTrainingRuntime": models.TrainerV1alpha1ClusterTrainingRuntime,
    "TrainJob": models.TrainerV1alpha1TrainJob,
}


def unknown(path, given, read):
    """The fields of `given` that `read` has not, or has otherwise."""
    if isinstance(given, dict) and isinstance(read, dict):
        for key, value in given.items():
            if key in read:
                yield from unknown(f"{path}.{key}", value, read[key])
            elif value not in ({}, None):
                yield f"{path}.{key} is not known"
    elif isinstance(given, list) and isinstance(read, list) and len(given) == len(read):
        for index, pair in enumerate(zip(given, read)):
            yield from unknown(f"{path}[{index}]", *pair)
    elif given != read and str(given) != str(read):
        yield f"{path} is {given!r}, read as {read!r}"


count, problems = 0, []
for document in yaml.safe_load_all(open(sys.argv[1])):
    kind = document["kind"]
    if kind in KINDS:
        count += 1
        # An object that does not fit raises, with the field's name.
        read = KINDS[kind].from_dict(document).to_dict()
        problems += unknown(kind, document, read)
print(count)
sys.exit("\n".join(problems) or 0)
