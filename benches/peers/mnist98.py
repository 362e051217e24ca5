"""PyTorch to 98 % on MNIST, a whole process: `python mnist98.py EPOCHS DATA`. Downhill's counterpart is
`downhill train mnist98.toml`: the same model, batch, schedule and number of epochs."""

import gzip
import os
import sys

import numpy as np
import torch

import peers

EPOCHS, DATA, BATCH = int(sys.argv[1]), sys.argv[2], 128


def test_set():
    with gzip.open(os.path.join(DATA, "mnist", "t10k-images-idx3-ubyte.gz")) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 784)
    with gzip.open(os.path.join(DATA, "mnist", "t10k-labels-idx1-ubyte.gz")) as file:
        labels = np.frombuffer(file.read(), np.uint8, offset=8)
    return torch.from_numpy((pixels / np.float32(255)).astype(np.float32)), torch.from_numpy(labels.astype(np.int64))


torch.set_num_threads(2)
x, y = (torch.from_numpy(part) for part in peers.images(DATA))
model = peers.torch_model("784-512-256-10")
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
steps = EPOCHS * -(-len(x) // BATCH)
schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
for _ in range(EPOCHS):
    order = torch.randperm(len(x))
    for at in range(0, len(x), BATCH):
        mine = order[at : at + BATCH]
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(x[mine]), y[mine]).backward()
        optimizer.step()
        schedule.step()
with torch.no_grad():
    x, y = test_set()
    print(f"test accuracy {(model(x).argmax(1) == y).float().mean():.4f}")
