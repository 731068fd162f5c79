"""Prints the losses of a few training steps of the tests' tiny model, as hexadecimal digits: a process of its own."""

import numpy as np
import torch
from conftest import build_tiny_model

from visdyn.models.token.sequences import collate
from visdyn.training.dynamics import CompletionLoss

model = build_tiny_model()
images = np.random.default_rng(0).integers(0, 256, (2, 6, 16, 16, 3), dtype=np.uint8)
sources, targets = (model.encode(list(part)) for part in images)  # convolutions
pairs = zip(sources, targets, strict=True)
rows = [model.builder.forward(source, "open the drawer", target) for source, target in pairs]
batch = collate(rows, model.layout.pad)
model.lm.train().requires_grad_(True)
loss, optimizer = CompletionLoss(model.lm), torch.optim.AdamW(model.lm.parameters(), 0.01)
losses = []
for _ in range(8):
    optimizer.zero_grad()
    found = loss(**batch)["loss"]
    found.backward()
    optimizer.step()
    losses.append(found.item())
print(np.array(losses, np.float32).tobytes().hex())
