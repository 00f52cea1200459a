"""Muon's update: momentum, orthogonalised by Newton-Schulz, for many matrices of one shape at once."""

import math
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor, Shard

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


def find_update(
    matrices: torch.Tensor, scales: list[torch.Tensor], dtype: torch.dtype
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return orthogonal matrices (N, A, B) in `dtype`, and two factors, to be multiplied with in this order.

    The first, (N, A, 1) or (N, 1, B), makes rows (or columns, of a wide matrix) of one size, the second, (N, 1, 1), all
    together as large as before (Li et al. 2025, NorMuon). `scales`, the running means of their squares, (A, 1) or
    (1, B) each, are brought up to date in place.
    """
    update = orthogonalise(matrices, dtype)
    whole = update.float()
    squares = whole.square().mean(-1 if scales[0].size(-1) == 1 else -2, keepdim=True)
    torch._foreach_lerp_(scales, list(squares), 0.1)
    evening = torch.stack(scales).clamp_min(1e-10).rsqrt()
    norm, even_norm = (torch.linalg.matrix_norm(x, keepdim=True) for x in (whole, whole * evening))
    return update, evening, norm / even_norm.clamp_min(1e-10)


@dataclass(frozen=True)
class MuonSettings:
    """How a group of matrices is updated; `dtype` is that of the orthogonalisation, `transposed` as GPT-2's layers."""

    rate: float
    momentum: float
    weight_decay: float
    dtype: torch.dtype
    transposed: bool = False


@torch.no_grad()
def step_muon(
    parameters: list[torch.Tensor], momenta: list[torch.Tensor], scales: list[torch.Tensor], settings: MuonSettings
) -> None:
    """Update matrices of one shape (A, B), in place, from their gradients; of sharded ones the part that is here.

    The update is Nesterov momentum, made orthogonal and of even rows by `find_update`. It is scaled by
    sqrt(max(1, outputs / inputs)), with which one rate holds for every width (Bernstein 2025; Jordan et al. 2024): A
    is the outputs, of transposed matrices the inputs. Decay acts only where the update shrinks a weight too (Chen et
    al. 2025, cautious weight decay).
    """
    rows, columns = parameters[0].shape
    group = shard_group(parameters[0])
    count = max(1, CHUNK_ELEMENTS // (rows * columns)) * (group.size() if group else 1)
    if len(parameters) > count:
        for i in range(0, len(parameters), count):
            part = slice(i, i + count)
            step_muon(parameters[part], momenta[part], scales[part], settings)
        return
    here = [local_part(parameter) for parameter in parameters]
    gradients = [local_part(parameter.grad) for parameter in parameters if parameter.grad is not None]
    momenta = [local_part(buffer) for buffer in momenta]
    torch._foreach_lerp_(momenta, gradients, 1 - settings.momentum)
    update = torch.stack(torch._foreach_lerp(gradients, momenta, settings.momentum))
    if group:
        update, *factors = find_shared_update(update, scales, settings.dtype, rows, group)
    else:
        update, *factors = find_update(update, scales, settings.dtype)
    inputs, outputs = (rows, columns) if settings.transposed else (columns, rows)
    rate = settings.rate * max(1.0, outputs / inputs) ** 0.5
    changes = list(math.prod(factors, start=update.float()))
    if settings.weight_decay:
        for parameter, change in zip(here, changes, strict=True):
            change.add_(parameter * (change * parameter > 0), alpha=settings.weight_decay)
    torch._foreach_add_(here, changes, alpha=-rate)


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return the part of a sharded tensor that this process holds; of any other all."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def shard_group(tensor: torch.Tensor) -> dist.ProcessGroup | None:
    """Return the processes among which the rows of a tensor are sharded; None where it is whole."""
    if not isinstance(tensor, DTensor):
        return None
    return tensor.device_mesh.get_group(tensor.placements.index(Shard(0)))


def find_shared_update(
    parts: torch.Tensor, scales: list[torch.Tensor], dtype: torch.dtype, rows: int, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `find_update` of N matrices (A, B) for the rows that are here, `parts` (N, a, B), its factors as one.

    Each process gets its share of the matrices whole, makes them orthogonal, and gives each process its rows back: two
    all-to-all exchanges in `dtype`, which carry (P - 1) / P of the matrices each way, while the work of a process falls
    as 1 / P. So does the Muon of Ahn et al. 2025 (Dion); that of Liu et al. 2025 (Moonlight) gathers every matrix
    on each process of its group, which carries P / 2 times as much and repeats the work. Scales are whole everywhere.
    """
    size, rank = group.size(), group.rank()
    count, height, columns = parts.shape
    heights = [len(part) for part in torch.empty(rows, 0).chunk(size)]  # as FSDP splits rows
    heights += [0] * (size - len(heights))
    shares = [len(part) for part in torch.empty(count, 0).tensor_split(size)]
    begin, share = sum(shares[:rank]), shares[rank]
    own = slice(begin, begin + share)
    as_rows = [number * height * columns for number in shares]  # what a process has of each other's matrices
    as_owner = [share * number * columns for number in heights]  # what it has of its own, by whose rows they are
    sent = parts.to(dtype).contiguous()
    got = sent.new_empty(sum(as_owner))
    dist.all_to_all_single(got, sent.view(-1), as_owner, as_rows, group=group)
    by_rows = zip(got.split(as_owner), heights, strict=True)
    matrices = torch.cat([part.view(share, number, columns) for part, number in by_rows], dim=1)
    vectors = torch.zeros(2, count, scales[0].numel(), device=parts.device)  # scales and factors
    if share:
        matrices, evening, size_factors = find_update(matrices, scales[own], dtype)
        vectors[:, own] = torch.stack([torch.stack(scales[own]), evening * size_factors]).flatten(2)
    back = torch.cat([part.reshape(-1) for part in matrices.split(heights, dim=1)])
    dist.all_to_all_single(sent.view(-1), back, as_rows, as_owner, group=group)
    dist.all_reduce(vectors, group=group)
    torch._foreach_copy_(scales, list(vectors[0].view(count, *scales[0].shape)))
    factors = vectors[1].view(count, *scales[0].shape)
    return sent, factors[:, sum(heights[:rank]) :][:, :height] if factors.size(1) > 1 else factors
