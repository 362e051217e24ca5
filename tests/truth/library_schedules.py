"""Learning rates as PyTorch and optax themselves give them, step by step, for schedules that follow one another.

Needs torch, optax and nothing else; run it with any Python that has them. It writes library_schedules.json beside this
file; tests/it/schedules.rs reads that and needs no Python. Each row has the `[learning_rate]` table of a run file, the run's
epochs and steps per epoch, and the rates of all its steps.
"""

import json
from pathlib import Path

import jax
import optax
import torch
from torch.optim import lr_scheduler

jax.config.update("jax_enable_x64", True)
FOLDER = Path(__file__).parent
PER_EPOCH, EPOCHS = 20, 6
STEPS = PER_EPOCH * EPOCHS


def by_torch(initial, make):
    """The rates that a PyTorch scheduler sets for an optimizer, read before each of its steps."""
    optimizer = torch.optim.SGD([torch.zeros(1, dtype=torch.float64)], lr=initial)
    scheduler = make(optimizer)
    rates = []
    for _ in range(STEPS):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def by_optax(schedule):
    return [float(schedule(jax.numpy.float64(step))) for step in range(STEPS)]


def rows():
    def row(library, table, rates):
        return {"library": library, "table": table, "epochs": EPOCHS, "per_epoch": PER_EPOCH, "rates": rates}

    for period, stretch, end in [(10, 1, 0.0), (8, 2, 0.002), (7, 3, 0.01)]:
        table = f'initial = 0.2\nschedule = "cosine-restarts"\nevery = {period}\nstretch = {stretch}\nend = {end}\n'
        restarts = lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, period, stretch, end)
        yield row("torch CosineAnnealingWarmRestarts", table, by_torch(0.2, restarts))
    yield row(
        "torch MultiStepLR",
        'initial = 0.1\nschedule = "piecewise"\nat = [30, "4 epochs", "90%"]\nrates = [0.01, 0.001, 0.0001]\n',
        by_torch(0.1, lambda o: lr_scheduler.MultiStepLR(o, [30, 80, 108], gamma=0.1)),
    )
    yield row(
        "torch LinearLR, then MultiStepLR; Goyal et al. 2017: 0.1 for a batch of 256, times 1024 / 256",
        'initial = 0.1\nfor_batch = 256\nschedule = "piecewise"\nwarmup = "1 epoch"\nat = ["2 epochs", "5 epochs"]\n'
        "rates = [0.01, 0.001]\n",
        by_torch(
            0.4,
            lambda o: lr_scheduler.ChainedScheduler(
                [lr_scheduler.LinearLR(o, 1 / 20, 1.0, 19), lr_scheduler.MultiStepLR(o, [40, 100], gamma=0.1)]
            ),
        ),
    )
    then = "[[learning_rate.then]]\n"
    yield row(
        "torch SequentialLR of ExponentialLR, CosineAnnealingLR and ConstantLR",
        'initial = 0.3\nschedule = "exponential"\nevery = 1\nfactor = 0.95\n'
        + then
        + 'from = "25%"\ninitial = 0.3\nschedule = "cosine"\nend = 0.01\n'
        + then
        + 'from = "5 epochs"\ninitial = 0.15\n',
        by_torch(
            0.3,
            lambda o: lr_scheduler.SequentialLR(
                o,
                [
                    lr_scheduler.ExponentialLR(o, 0.95),
                    lr_scheduler.CosineAnnealingLR(o, 70, 0.01),
                    lr_scheduler.ConstantLR(o, 0.5, 1000),
                ],
                [30, 100],
            ),
        ),
    )
    yield row(
        "optax join_schedules of polynomial_schedule, cosine_decay_schedule and exponential_decay",
        'initial = 0.25\nschedule = "polynomial"\npower = 2.0\nend = 0.05\n'
        + then
        + 'from = 40\ninitial = 0.125\nschedule = "cosine"\nend = 0.0\n'
        + then
        + 'from = "75%"\ninitial = 0.0625\nschedule = "exponential"\nevery = 10\nfactor = 0.5\n',
        by_optax(
            optax.join_schedules(
                [
                    optax.polynomial_schedule(0.25, 0.05, 2.0, 40),
                    optax.cosine_decay_schedule(0.125, 50),
                    optax.exponential_decay(0.0625, 10, 0.5),
                ],
                [40, 90],
            )
        ),
    )
    yield row(
        "optax piecewise_constant_schedule",
        'initial = 0.5\nschedule = "piecewise"\nat = ["1 epoch", "50%"]\nrates = [0.25, 0.03125]\n',
        by_optax(optax.piecewise_constant_schedule(0.5, {20: 0.5, 60: 0.125})),
    )


if __name__ == "__main__":
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows()) + "\n]\n"
    (FOLDER / "library_schedules.json").write_text(text)
