"""Ten training steps of each model, and each learning-rate schedule, computed another way.

Everything runs in float64 with numpy matrices and its own exp and log; only the sample order and the initial weights
follow docs/numerics.md (sections 1, 2 and 4). The update is that of torch.optim.SGD. `python3 ten_steps.py` writes
ten_steps.json and schedules.json beside this file; tests/it/truth.rs and tests/it/schedules.rs read them and need no
Python. Made with Python 3 and numpy 2.4.
"""

import json
import math
import pathlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent
MASK32 = 0xFFFFFFFF
ORDER, INIT = 1, 2


# Sections 1 and 2 of docs/numerics.md.


def random(seed, purpose, epoch, index):
    key = [seed & MASK32, seed >> 32]
    counter = [index & MASK32, index >> 32, epoch, purpose]
    for _ in range(10):
        a, b = 0xD2511F53 * counter[0], 0xCD9E8D57 * counter[2]
        counter = [b >> 32 ^ counter[1] ^ key[0], b & MASK32, a >> 32 ^ counter[3] ^ key[1], a & MASK32]
        key = [(key[0] + 0x9E3779B9) & MASK32, (key[1] + 0xBB67AE85) & MASK32]
    return counter


def mix(x):
    x ^= x >> 16
    x = x * 0x7FEB352D & MASK32
    x ^= x >> 15
    x = x * 0x846CA68B & MASK32
    return x ^ x >> 16


def order(seed, epoch, n):
    keys = random(seed, ORDER, epoch, 0) + random(seed, ORDER, epoch, 1)
    h = max(1, math.ceil((n - 1).bit_length() / 2))
    m = 2**h - 1

    def once(v):
        left, right = v >> h, v & m
        for key in keys:
            left, right = right, left ^ (mix(right ^ key) & m)
        return left << h | right

    samples = []
    for position in range(n):
        v = once(position)
        while v >= n:
            v = once(v)
        samples.append(v)
    return samples


def initial(seed, widths, activation):
    """Weights and biases of each layer, the weights as [outputs, inputs]."""
    layers, at, last = [], 0, len(widths) - 2
    for index, (n, m) in enumerate(zip(widths, widths[1:])):
        weight = np.zeros(m * n)
        if last > 0:
            fan = n if activation == "relu" and index < last else n + m
            limit = np.float32(math.sqrt(6 / fan))
            unit = [np.float32((random(seed, INIT, 0, at + i)[0] >> 8) * 2.0**-23 - 1) for i in range(m * n)]
            weight = np.array([float(u * limit) for u in unit])
        layers.append([weight.reshape(m, n), np.zeros(m)])
        at += m * n + m
    return layers


# Models: mean loss of a batch and its gradient.

ACTIVATIONS = {
    "relu": (lambda z: np.maximum(z, 0), lambda z: (z > 0).astype(float)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "sigmoid": (lambda z: 0.5 * (1 + np.tanh(z / 2)), lambda z: 0.25 / np.cosh(z / 2) ** 2),
}


def head_loss(head, z, y):
    """Loss per sample and its derivative by z, [samples, outputs]."""
    if head == "softmax":
        log_sum = np.logaddexp.reduce(z, axis=1)
        hot = np.eye(z.shape[1])[y.astype(int)]
        return log_sum - (z * hot).sum(axis=1), np.exp(z - log_sum[:, None]) - hot
    z1 = z[:, 0]
    if head == "squared-error":
        loss, delta = (z1 - y) ** 2 / 2, z1 - y
    elif head == "logistic":
        loss, delta = np.logaddexp(0, z1) - y * z1, 0.5 * (1 + np.tanh(z1 / 2)) - y
    else:
        loss, delta = np.exp(z1) - y * z1, np.exp(z1) - y
    return loss, delta[:, None]


def loss_and_gradient(layers, activation, head, x, y):
    f, derivative = ACTIVATIONS[activation]
    inputs, sums = [x], []
    for index, (weight, bias) in enumerate(layers):
        sums.append(inputs[-1] @ weight.T + bias)
        if index + 1 < len(layers):
            inputs.append(f(sums[-1]))
    loss, delta = head_loss(head, sums[-1], y)
    gradient = []
    for index in reversed(range(len(layers))):
        gradient.insert(0, [delta.T @ inputs[index] / len(x), delta.mean(axis=0)])
        if index:
            delta = delta @ layers[index][0] * derivative(sums[index - 1])
    return loss.mean(), gradient


def ten_steps(case):
    """The mean loss of each step's batch before its update, and the weights after the last as one flat list."""
    x, y = np.array(case["x"]), np.array(case["y"])
    n, batch, seed = len(x), case["batch"], case["seed"]
    outputs = case["classes"] if case["head"] == "softmax" else 1
    layers = initial(seed, [x.shape[1], *case["hidden"], outputs], case["activation"])
    case["initial"] = flat(layers)
    velocity = [[np.zeros_like(p) for p in layer] for layer in layers]
    losses, epoch, queue = [], 0, []
    for _ in range(10):
        if not queue:
            queue, epoch = order(seed, epoch, n), epoch + 1
        chosen, queue = queue[:batch], queue[batch:]
        loss, gradient = loss_and_gradient(layers, case["activation"], case["head"], x[chosen], y[chosen])
        losses.append(float(loss))
        for layer, grads, speeds in zip(layers, gradient, velocity):
            for k in range(2):
                g = grads[k] + case["weight_decay"] * layer[k]
                speeds[k] = case["momentum"] * speeds[k] + g
                layer[k] = layer[k] - case["rate"] * (g + case["momentum"] * speeds[k] if case["nesterov"] else speeds[k])
    return losses, flat(layers)


def flat(layers):
    return [float(v) for layer in layers for part in layer for v in part.ravel()]


def cases():
    plain = {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0}
    momentum = {**plain, "momentum": 0.9}
    nesterov = {**plain, "momentum": 0.8, "nesterov": True}
    decay = {**plain, "momentum": 0.5, "weight_decay": 0.05}
    every = {"momentum": 0.9, "nesterov": True, "weight_decay": 0.01}
    models = [
        ("linear", "squared-error", [], "relu"),
        ("logistic", "logistic", [], "relu"),
        ("softmax", "softmax", [], "relu"),
        ("poisson", "poisson", [], "relu"),
        ("mlp relu", "softmax", [8, 6], "relu"),
        ("mlp tanh", "softmax", [7], "tanh"),
        ("mlp sigmoid", "softmax", [9], "sigmoid"),
        ("mlp tanh squared error", "squared-error", [5], "tanh"),
        ("mlp relu logistic", "logistic", [5, 4], "relu"),
        ("mlp tanh poisson", "poisson", [6], "tanh"),
    ]
    generator = np.random.default_rng(20)
    for name, head, hidden, activation in models:
        # 25 samples in batches of 8: the last of each epoch holds one sample, ten steps reach the third epoch.
        x = generator.integers(-64, 65, (25, 4)) / 64
        score = x @ np.array([1.0, -2.0, 0.5, 1.5])
        y = {
            "squared-error": score,
            "logistic": (score > 0) * 1.0,
            "softmax": np.floor(score) % 3,
            "poisson": np.floor(np.abs(score)),
        }[head]
        for settings_name, settings in [
            ("plain", plain),
            ("momentum", momentum),
            ("nesterov", nesterov),
            ("momentum and decay", decay),
            ("nesterov and decay", every),
        ]:
            case = {
                "name": f"{name}, {settings_name}",
                "head": head,
                "hidden": hidden,
                "activation": activation,
                "classes": 3,
                "seed": 2**32 + 11,
                "batch": 8,
                "rate": 0.0625,
                **settings,
                "x": x.tolist(),
                "y": y.tolist(),
            }
            case["losses"], case["final"] = ten_steps(case)
            yield case


# Learning rates, each by the formula of the library that is named.


def rates(name, t, total, initial, every, factor, power, end):
    progress = min(t / total, 1)
    if name == "constant":  # optax.constant_schedule
        return initial
    if name == "step":  # torch.optim.lr_scheduler.StepLR(step_size=every, gamma=factor)
        return initial * factor ** (t // every)
    if name == "exponential":  # optax.exponential_decay(initial, every, factor)
        return initial * factor ** (t / every)
    if name == "inverse-time":  # keras.optimizers.schedules.InverseTimeDecay(initial, every, factor)
        return initial / (1 + factor * t / every)
    if name == "polynomial":  # optax.polynomial_schedule(initial, end, power, total)
        return (initial - end) * (1 - progress) ** power + end
    if name == "cosine":  # torch CosineAnnealingLR(T_max=total, eta_min=end), closed form
        return end + (initial - end) * (1 + math.cos(math.pi * progress)) / 2
    # optax.cosine_onecycle_schedule(total, initial, pct_start=0.3, div_factor=25, final_div_factor=initial/25/end)
    low, high, share = (initial / 25, initial, progress / 0.3) if progress < 0.3 else (initial, end, (progress - 0.3) / 0.7)
    return low + (high - low) * (1 - math.cos(math.pi * share)) / 2


def schedules():
    settings = {"initial": 0.2, "every": 7, "factor": 0.6, "power": 2.5, "end": 0.004}
    for name in ["constant", "step", "exponential", "inverse-time", "polynomial", "cosine", "one-cycle"]:
        for warmup in [0, 10]:
            total = 100
            # Warm-up: torch.optim.lr_scheduler.LinearLR(start_factor=1/warmup, total_iters=warmup - 1).
            rising = [
                settings["initial"] * (1 / warmup + (1 - 1 / warmup) * t / (warmup - 1)) for t in range(warmup)
            ]
            rest = [rates(name, t, total, **settings) for t in range(total)]
            yield {"schedule": name, "warmup": warmup, "steps": total + warmup, **settings, "rates": rising + rest}


def write(name, rows):
    text = "[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n"
    (FOLDER / name).write_text(text)


if __name__ == "__main__":
    write("ten_steps.json", cases())
    write("schedules.json", schedules())
