"""Muon's update: momentum, orthogonalised by Newton-Schulz, for many matrices of one shape at once."""

import torch

# Coefficients of five quintic steps, each the best polynomial for what the one before leaves: Amsel et al. 2025, "The
# Polar Express", algorithm 1 (safety factor 0.02).
POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
CHUNK_ELEMENTS = 2**24  # matrices are stacked up to this size, which bounds the memory of a step


def orthogonalise(matrices: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return the nearest (semi-)orthogonal matrices of a stack (N, A, B): singular values within 0.2 of 1.

    Source: Jordan et al. 2024 (Muon), with the coefficients of Amsel et al. 2025. Computed in `dtype`: bfloat16 is
    precise enough.

    >>> x = orthogonalise(torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(0)), torch.float32)
    >>> bool((torch.linalg.svdvals(x) - 1).abs().max() < 0.2)
    True
    """
    tall = matrices.size(-2) > matrices.size(-1)
    x = matrices.to(dtype)
    x = x.mT.contiguous() if tall else x
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) * 1.01 + 1e-7)
    for a, b, c in POLAR_EXPRESS:
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


@torch.no_grad()
def step_muon(
    parameters: list[torch.Tensor],
    momenta: list[torch.Tensor],
    scales: list[torch.Tensor],
    rate: float,
    momentum: float,
    weight_decay: float,
    dtype: torch.dtype,
    transposed: bool = False,
) -> None:
    """Update matrices of one shape (A, B), in place, from their gradients.

    The update is Nesterov momentum, made orthogonal, its rows (or columns, of a wide matrix) brought to one size by
    `scales`, the running mean of their squares, (A, 1) or (1, B) each (Li et al. 2025, NorMuon). It is scaled by
    sqrt(max(1, outputs / inputs)), with which one rate holds for every width (Bernstein 2025; Jordan et al. 2024): A
    is the outputs, of `transposed` matrices the inputs. Decay acts only where the update shrinks a weight too (Chen et
    al. 2025, cautious weight decay).
    """
    size = parameters[0].numel()
    count = max(1, CHUNK_ELEMENTS // size)
    if len(parameters) > count:
        for i in range(0, len(parameters), count):
            part = slice(i, i + count)
            step_muon(parameters[part], momenta[part], scales[part], rate, momentum, weight_decay, dtype, transposed)
        return
    gradients = [parameter.grad for parameter in parameters]
    torch._foreach_lerp_(momenta, gradients, 1 - momentum)
    update = orthogonalise(torch.stack(torch._foreach_lerp(gradients, momenta, momentum)), dtype).float()
    squares = update.square().mean(-1 if scales[0].size(-1) == 1 else -2, keepdim=True)
    torch._foreach_lerp_(scales, list(squares), 0.1)
    norm = torch.linalg.matrix_norm(update, keepdim=True)
    update *= torch.stack(scales).clamp_min(1e-10).rsqrt()
    update *= norm / torch.linalg.matrix_norm(update, keepdim=True).clamp_min(1e-10)
    inputs, outputs = parameters[0].shape if transposed else parameters[0].shape[::-1]
    rate *= max(1.0, outputs / inputs) ** 0.5
    changes = list(update)
    if weight_decay:
        for parameter, change in zip(parameters, changes, strict=True):
            change.add_(parameter * (change * parameter > 0), alpha=weight_decay)
    torch._foreach_add_(parameters, changes, alpha=-rate)
