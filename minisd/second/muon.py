"""Muon: updates each weight matrix by the orthogonal matrix nearest to its momentum (Jordan et al. 2024).

A few strong directions dominate a gradient. Orthogonalisation gives all directions steps of equal length, including weak ones,
which Adam would take many steps to learn. Vectors and embeddings use Adam, as in the original, and so do layers with few outputs,
which have few directions.
"""

import torch
from torch import Tensor, nn

from ..train.loop import Recipe

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # coefficients of a polynomial that, iterated, drives singular values towards 1
MOMENTUM, BETAS, EPS = 0.95, (0.9, 0.99), 1e-8
FEW = 4  # outputs: the colours of the decoder, the noise of the UNet, the logit of the discriminator


def orthogonal(matrix: Tensor, steps: int = 5) -> Tensor:
    """Approximately U Vᵀ for a matrix U S Vᵀ, by five Newton–Schulz steps, which need only matrix products."""
    a, b, c = NEWTON_SCHULZ
    x = matrix / (matrix.norm() + 1e-7)
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    for _ in range(steps):
        square = x @ x.T
        x = a * x + (b * square + c * square @ square) @ x
    return x if wide else x.T


class Muon(torch.optim.Optimizer):
    """An optimiser with two groups of parameters: matrices, and others for Adam.

    The factor 0.2 √max(rows, columns) gives steps of the same typical size as Adam's (Liu et al. 2025, eq. 4), so that both groups
    share a learning rate.
    """

    def __init__(self, matrices: list[nn.Parameter], others: list[nn.Parameter], lr: float, weight_decay: float):
        groups = [{"params": matrices, "orthogonal": True}, {"params": others, "orthogonal": False}]
        super().__init__(groups, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.mul_(1 - group["lr"] * group["weight_decay"])
                    direction = self.orthogonal_direction if group["orthogonal"] else self.adam_direction
                    p.sub_(group["lr"] * direction(p.grad, self.state[p]))

    def orthogonal_direction(self, gradient: Tensor, state: dict) -> Tensor:
        momentum = state.setdefault("momentum", torch.zeros_like(gradient))
        momentum.lerp_(gradient, 1 - MOMENTUM)
        ahead = gradient.lerp(momentum, MOMENTUM)  # Nesterov momentum
        flat = ahead.flatten(1)  # a convolution kernel as a matrix: outputs × inputs of each output
        return 0.2 * max(flat.shape) ** 0.5 * orthogonal(flat).view_as(gradient)

    def adam_direction(self, gradient: Tensor, state: dict) -> Tensor:
        """The step of Adam (Kingma & Ba 2015, algorithm 1)."""
        if not state:
            state |= {"step": 0, "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
        state["step"] += 1
        state["mean"].lerp_(gradient, 1 - BETAS[0])
        state["square"].lerp_(gradient.square(), 1 - BETAS[1])
        mean, square = (state[name] / (1 - beta ** state["step"]) for name, beta in zip(("mean", "square"), BETAS))
        return mean / (square.sqrt() + EPS)


def muon(model: nn.Module, recipe: Recipe) -> Muon:
    """Muon for matrices and kernels, except embeddings and layers with few outputs; Adam for the rest."""
    embeddings = {id(module.weight) for module in model.modules() if isinstance(module, nn.Embedding)}
    matrices = [p for p in model.parameters() if p.ndim >= 2 and id(p) not in embeddings and p.shape[0] > FEW]
    chosen = {id(p) for p in matrices}
    others = [p for p in model.parameters() if id(p) not in chosen]
    return Muon(matrices, others, recipe.learning_rate, recipe.weight_decay)
