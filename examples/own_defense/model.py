"""A network as people have it: a torch module that takes images in [0, 1], weights in a file.

`python model.py` trains it on digits that come with scikit-learn, and writes 100 images that it has
not seen into images/CLASS/NAME.png.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

HERE = Path(__file__).parent
WEIGHTS = HERE / "model.pt"


class Network(nn.Module):
    """(B, 3, 32, 32) in [0, 1] -> logits (B, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(32, 32, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(32 * 4 * 4, 10),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers((x - 0.5) / 0.5)  # normalisation belongs to the network


def make_model() -> nn.Module:
    """The trained network."""
    network = Network()
    network.load_state_dict(torch.load(WEIGHTS, weights_only=True))
    return network.eval()


def digits() -> tuple[np.ndarray, np.ndarray]:
    """8-bit pictures (N, 32, 32) and their labels (N,)."""
    bunch = load_digits()
    pictures = [
        np.asarray(Image.fromarray((image * 255 / 16).astype(np.uint8)).resize((32, 32)))
        for image in bunch.images
    ]
    return np.stack(pictures), bunch.target


def train(images: np.ndarray, labels: np.ndarray, epochs: int = 15) -> None:
    """Adam on batches of 64."""
    torch.manual_seed(0)
    x = torch.from_numpy(images / 255).float()[:, None].expand(-1, 3, -1, -1)
    y = torch.from_numpy(labels)
    network = Network()
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
    torch.save(network.state_dict(), WEIGHTS)


if __name__ == "__main__":
    pictures, labels = digits()
    train(pictures[100:], labels[100:])
    for number, (picture, label) in enumerate(zip(pictures[:100], labels[:100], strict=True)):
        place = HERE / "images" / str(label) / f"{number:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(place)
    print(f"wrote {WEIGHTS} and {HERE / 'images'}")
