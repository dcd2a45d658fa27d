"""What `gpunet train penguins` does, as a short PyTorch script: the best epoch by validation loss
is kept and saved; prints the accuracy on the test rows as JSON."""

import json
from itertools import pairwise

import torch
from penguins_table import arguments, read
from torch import nn


def main() -> None:
    given = arguments(__doc__)
    data = {
        name: (torch.from_numpy(x), torch.from_numpy(y))
        for name, (x, y) in read(given.csv, given.parts).items()
    }
    torch.manual_seed(0)
    widths = [data["train"][0].shape[1], *map(int, given.hidden.split(",")), 3]
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    net = nn.Sequential(*layers[:-1])
    best = train(net, data, given.epochs, given.batch, given.lr)
    net.load_state_dict(best)
    torch.save(best, given.out / "model.pt")
    x, y = data["test"]
    with torch.no_grad():
        print(json.dumps({"accuracy": float((net(x).argmax(1) == y).float().mean())}))


def train(net: nn.Module, data: dict, epochs: int, batch: int, lr: float) -> dict:
    """The weights of the epoch with the lowest validation loss."""
    loss_of = nn.functional.cross_entropy
    optimizer = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01, fused=True)
    x, y = data["train"]
    lowest, best = float("inf"), {}
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            loss_of(net(x[rows]), y[rows]).backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            loss = float(loss_of(net(data["validation"][0]), data["validation"][1]))
        if loss <= lowest:
            lowest, best = loss, {name: value.clone() for name, value in net.state_dict().items()}
    return best


if __name__ == "__main__":
    main()
