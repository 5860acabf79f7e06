"""The optimiser of the layers' matrices."""
import torch
import torch.distributed as dist


class Muon:
    """Momentum, then all singular values of the update set to about 1 (five Newton-Schulz steps): matrices learn in far
    fewer steps than with AdamW. Matrices of one shape are stacked; with several processes each does its share."""

    COEFFICIENTS = (3.4445, -4.7750, 2.0315)

    def __init__(self, parameters, rank, world, momentum=0.95, decay=0.03):
        self.rank, self.world, self.momentum, self.decay = rank, world, momentum, decay
        self.groups = {}
        for p in parameters:
            self.groups.setdefault(tuple(p.shape), []).append(p)
        self.buffers = {shape: torch.zeros(len(group), *shape) for shape, group in self.groups.items()}

    def orthogonal(self, x):
        a, b, c = self.COEFFICIENTS
        x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
        for _ in range(5):
            y = x @ x.transpose(1, 2)
            x = a * x + (b * y + c * y @ y) @ x
        return x

    @torch.no_grad()
    def step(self, rate):
        updates = {}
        for shape, group in self.groups.items():
            gradient, buffer = torch.stack([p.grad for p in group]), self.buffers[shape]
            buffer.lerp_(gradient, 1 - self.momentum)
            mine = slice(self.rank * len(group) // self.world, (self.rank + 1) * len(group) // self.world)
            x = gradient[mine].lerp(buffer[mine], self.momentum)
            tall = shape[0] > shape[1]
            x = self.orthogonal(x.transpose(1, 2)).transpose(1, 2) if tall else self.orthogonal(x)
            updates[shape] = torch.zeros(len(group), *shape)
            updates[shape][mine] = x * max(1, shape[0] / shape[1]) ** 0.5
        if self.world > 1:
            flat = torch.cat([u.flatten() for u in updates.values()])
            dist.all_reduce(flat)
            sizes = [u.numel() for u in updates.values()]
            updates = {s: part.view_as(u) for (s, u), part in zip(updates.items(), flat.split(sizes))}
        for shape, group in self.groups.items():
            for p, update in zip(group, updates[shape]):
                p.mul_(1 - rate * self.decay).add_(update, alpha=-rate)
