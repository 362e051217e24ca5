"""Ten steps of each optimizer as PyTorch and optax make them, and the rates that PyTorch's ReduceLROnPlateau sets.

Needs numpy, torch and optax; run it with any Python that has them. It writes library_optimizers.json beside this file;
tests/it/optimizers.rs reads that and needs no Python. The parameters are a weight of 3 x 4 and a bias of 3; the gradients are
given, not computed. All is in binary64, so that what differs is our rounding. Two rules that no library has are written out
here from their papers: lars with weight decay (You et al. 2017, algorithm 1) and ftrl (McMahan et al. 2013, algorithm 1).
"""

import json
from pathlib import Path

import jax
import numpy
import optax
import torch
from torch.optim import lr_scheduler

jax.config.update("jax_enable_x64", True)
STEPS, SHAPE = 10, (3, 4)
random = numpy.random.default_rng(5)
# What binary32 holds, so that both sides begin with the same numbers.
single = lambda values: values.astype(numpy.float32).astype(numpy.float64)
WEIGHT, BIAS = single(random.normal(size=SHAPE)), single(random.normal(size=3))
GRADIENTS = [(single(random.normal(size=SHAPE)), single(random.normal(size=3))) for _ in range(STEPS)]
RATE = 0.1


def flat(weight, bias):
    return numpy.concatenate([numpy.asarray(weight).ravel(), numpy.asarray(bias).ravel()]).tolist()


def by_torch(make, clip_norm=None):
    weight, bias = (torch.nn.Parameter(torch.tensor(value)) for value in (WEIGHT, BIAS))
    optimizer = make(weight, bias)
    path = []
    for gradient in GRADIENTS:
        weight.grad, bias.grad = (torch.tensor(part) for part in gradient)
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_([weight, bias], clip_norm)
        optimizer.step()
        path.append(flat(weight.detach(), bias.detach()))
    return path


def by_optax(of_weight, of_bias):
    parameters = {"weight": jax.numpy.array(WEIGHT), "bias": jax.numpy.array(BIAS)}
    optimizer = optax.multi_transform(
        {"weight": of_weight, "bias": of_bias}, {"weight": "weight", "bias": "bias"}
    )
    state = optimizer.init(parameters)
    path = []
    for weight, bias in GRADIENTS:
        gradient = {"weight": jax.numpy.array(weight), "bias": jax.numpy.array(bias)}
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = optax.apply_updates(parameters, updates)
        path.append(flat(parameters["weight"], parameters["bias"]))
    return path


def lars_of_the_paper(trust, momentum, decay):
    weight, bias, path = WEIGHT.copy(), BIAS.copy(), []
    velocities = [numpy.zeros_like(weight), numpy.zeros_like(bias)]
    for gradients in GRADIENTS:
        for w, g, v in zip((weight, bias), gradients, velocities):
            norms = numpy.linalg.norm(w), numpy.linalg.norm(g)
            local = trust * norms[0] / (norms[1] + decay * norms[0]) if w is weight else 1.0
            v[:] = momentum * v + RATE * local * (g + decay * w)
            w -= v
        path.append(flat(weight, bias))
    return path


def ftrl_of_the_paper(alpha, beta, l1, l2):
    w, gradients, path = numpy.zeros(15), [numpy.array(flat(*g)) for g in GRADIENTS], []
    z, n = numpy.zeros(15), numpy.zeros(15)
    for g in gradients:
        sigma = (numpy.sqrt(n + g * g) - numpy.sqrt(n)) / alpha
        z += g - sigma * w
        n += g * g
        w = numpy.where(
            numpy.abs(z) <= l1, 0.0, -(z - numpy.sign(z) * l1) / ((beta + numpy.sqrt(n)) / alpha + l2)
        )
        path.append(w.tolist())
    return path


def optimizers():
    def row(source, table, path, start=None):
        return {"source": source, "table": table, "start": start or flat(WEIGHT, BIAS), "path": path}

    def plain(kind, **settings):
        return lambda weight, bias: kind([weight, bias], lr=RATE, **settings)

    optim = torch.optim
    for settings, table in [
        ({}, ""),
        ({"momentum": 0.9, "weight_decay": 0.01}, "momentum = 0.9\nweight_decay = 0.01"),
        ({"momentum": 0.9, "nesterov": True}, "momentum = 0.9\nnesterov = true"),
    ]:
        yield row("torch SGD", f'kind = "sgd"\n{table}', by_torch(plain(optim.SGD, **settings)))
    yield row("torch Adagrad", 'kind = "adagrad"', by_torch(plain(optim.Adagrad)))
    yield row(
        "torch Adagrad with L2",
        'kind = "adagrad"\nweight_decay = 0.1\nepsilon = 0.01',
        by_torch(plain(optim.Adagrad, weight_decay=0.1, eps=0.01)),
    )
    yield row("torch RMSprop", 'kind = "rmsprop"', by_torch(plain(optim.RMSprop)))
    yield row(
        "torch RMSprop with momentum and L2",
        'kind = "rmsprop"\nmomentum = 0.8\nweight_decay = 0.05\nbeta2 = 0.9',
        by_torch(plain(optim.RMSprop, momentum=0.8, weight_decay=0.05, alpha=0.9)),
    )
    yield row("torch Adam", 'kind = "adam"', by_torch(plain(optim.Adam)))
    yield row(
        "torch Adam with L2",
        'kind = "adam"\nbeta1 = 0.8\nbeta2 = 0.95\nepsilon = 0.001\nweight_decay = 0.1',
        by_torch(plain(optim.Adam, betas=(0.8, 0.95), eps=0.001, weight_decay=0.1)),
    )
    yield row(
        "torch AdamW",
        'kind = "adamw"\nweight_decay = 0.3',
        by_torch(plain(optim.AdamW, weight_decay=0.3)),
    )
    for most in [0.5, 2.0, 100.0]:
        yield row(
            "torch clip_grad_norm_, then SGD with momentum",
            f'kind = "sgd"\nmomentum = 0.9\nclip_norm = {most}',
            by_torch(plain(optim.SGD, momentum=0.9), most),
        )
    yield row(
        "torch clip_grad_norm_, then AdamW", 'kind = "adamw"\nclip_norm = 1.0', by_torch(plain(optim.AdamW, weight_decay=0.0), 1.0)
    )
    yield row(
        "torch AdamW with groups: no decay of biases and another rate",
        'kind = "adamw"\nweight_decay = 0.3\ndecay_biases = false\nrates = { biases = 2.0, "layers.0.weight" = 0.5 }',
        by_torch(
            lambda weight, bias: optim.AdamW(
                [
                    {"params": [weight], "lr": 0.5 * RATE, "weight_decay": 0.3},
                    {"params": [bias], "lr": 2.0 * RATE, "weight_decay": 0.0},
                ]
            )
        ),
    )
    yield row(
        "torch SGD with groups: no decay of biases",
        'kind = "sgd"\nmomentum = 0.5\nweight_decay = 0.3\ndecay_biases = false',
        by_torch(
            lambda weight, bias: optim.SGD(
                [{"params": [weight], "weight_decay": 0.3}, {"params": [bias]}], lr=RATE, momentum=0.5
            )
        ),
    )
    yield row(
        "optax lars on the weight, sgd on the bias",
        'kind = "lars"\nmomentum = 0.9\ntrust = 0.02',
        by_optax(optax.lars(RATE, trust_coefficient=0.02, momentum=0.9), optax.sgd(RATE, momentum=0.9)),
    )
    yield row(
        "lars of the paper",
        'kind = "lars"\nmomentum = 0.9\ntrust = 0.02\nweight_decay = 0.5',
        lars_of_the_paper(0.02, 0.9, 0.5),
    )
    adam = {"b1": 0.9, "b2": 0.999, "eps": 1e-6}
    for decay in [0.0, 0.2]:
        yield row(
            "optax lamb on the weight, adamw on the bias",
            f'kind = "lamb"\nweight_decay = {decay}',
            by_optax(
                optax.lamb(RATE, weight_decay=decay, **adam), optax.adamw(RATE, weight_decay=decay, **adam)
            ),
        )
    yield row(
        "ftrl of the paper",
        'kind = "ftrl"\nl1 = 0.8\nweight_decay = 0.2\nepsilon = 0.7',
        ftrl_of_the_paper(RATE, 0.7, 0.8, 0.2),
        [0.0] * 15,
    )


def plateaus():
    # PyTorch multiplies the best loss by 1 - threshold. Where that loss is negative, Downhill differs on purpose (docs/numerics.md,
    # section 8), so relative thresholds come with positive losses only.
    as_it_is = lambda losses: losses
    below_0 = lambda losses: losses - 3.0
    with_ties = lambda losses: numpy.round(losses, 1)

    def with_nan(losses):
        losses[[0, 7, 20, 21, 40]] = numpy.nan
        return losses

    for number, (change, table, settings) in enumerate(
        [
            (as_it_is, "factor = 0.5\npatience = 2\n", {"factor": 0.5, "patience": 2}),
            (
                as_it_is,
                "factor = 0.1\npatience = 1\nthreshold = 0.05\ncooldown = 3\nend = 0.0004\n",
                {"factor": 0.1, "patience": 1, "threshold": 0.05, "cooldown": 3, "min_lr": 0.0004},
            ),
            (
                as_it_is,
                'factor = 0.7\npatience = 0\nthreshold = 0.1\nthreshold_mode = "absolute"\n',
                {"factor": 0.7, "patience": 0, "threshold": 0.1, "threshold_mode": "abs"},
            ),
            (
                below_0,
                'factor = 0.6\npatience = 2\nthreshold = 0.05\nthreshold_mode = "absolute"\n',
                {"factor": 0.6, "patience": 2, "threshold": 0.05, "threshold_mode": "abs"},
            ),
            (with_ties, "factor = 0.5\npatience = 3\nthreshold = 0\n", {"factor": 0.5, "patience": 3, "threshold": 0.0}),
            (
                with_nan,
                "factor = 0.5\npatience = 1\ncooldown = 2\nthreshold = 0.02\n",
                {"factor": 0.5, "patience": 1, "cooldown": 2, "threshold": 0.02},
            ),
        ]
    ):
        random = numpy.random.default_rng(number)
        fall = numpy.exp(-numpy.arange(60) / 15)
        losses = change(fall + 0.1 * random.uniform(size=60)).tolist()
        optimizer = torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=0.2)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, **settings)
        rates = []
        for loss in losses:
            scheduler.step(loss)
            rates.append(float(optimizer.param_groups[0]["lr"]))
        yield {
            "table": f'initial = 0.2\nschedule = "plateau"\n{table}',
            "losses": [None if numpy.isnan(loss) else loss for loss in losses],
            "rates_after": rates,
        }


path = Path(__file__).parent / "library_optimizers.json"
gradients = [flat(*gradient) for gradient in GRADIENTS]
document = {"gradients": gradients, "optimizers": list(optimizers()), "plateaus": list(plateaus())}
path.write_text(json.dumps(document, indent=1) + "\n")
print(len(document["optimizers"]), "optimizers,", len(document["plateaus"]), "plateaus")
