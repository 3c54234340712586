"""Two projectors of the same features as one: side by side, or averaged in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from isthmus.errors import UsageError
from isthmus.projectors.projector import Projector


class ConcatEnsemble(nn.Module):
    """[N, sum(parts)] to [N, w1 + w2 + …]: unit rows of every member, each times the root of its share.

    Between two of these the cosine is the members' cosines averaged by share, so that models with different errors
    correct each other, at the cost of a wider embedding.

    members: projectors of the same features. shares: one number per member, at least 0, adding up to 1.
    Raises `UsageError` if they do not.
    """

    kind = "concat"

    def __init__(self, members: Sequence[Projector], shares: Sequence[float]) -> None:
        super().__init__()
        self.parts, self.width = members[0].parts, sum(member.width for member in members)
        self.shares = [float(share) for share in shares]
        if any(member.parts != self.parts for member in members):
            raise UsageError(f"concat: members take different features: {[member.parts for member in members]}.")
        if len(self.shares) != len(members) or min(self.shares) < 0 or abs(sum(self.shares) - 1) > 1e-6:
            raise UsageError(f"concat: shares {self.shares} of {len(members)} members must add up to 1.")
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        members = zip(self.members, self.shares, strict=True)
        return torch.cat([share**0.5 * F.normalize(member(x).float(), dim=-1) for member, share in members], dim=-1)

    def config(self) -> dict[str, Any]:
        """What `from_config` needs to make this again, as JSON."""
        members = [member.config() for member in self.members]  # type: ignore[operator]
        return {"kind": self.kind, "members": members, "shares": self.shares}


class SumEnsemble(ConcatEnsemble):
    """[N, sum(parts)] to [N, width]: unit rows of every member, each times its share, added.

    Used in place of `ConcatEnsemble` if the other side is fixed: the members' cosines to any y are averaged by share
    (up to the length of the sum), and the width of the space is kept.

    Raises `UsageError` as `ConcatEnsemble` does, and for members of different width.
    """

    kind = "blend"

    def __init__(self, members: Sequence[Projector], shares: Sequence[float]) -> None:
        super().__init__(members, shares)
        self.width = members[0].width
        if any(member.width != self.width for member in members):
            raise UsageError(f"blend: members lead to different spaces: {[member.width for member in members]}.")

    def forward(self, x: Tensor) -> Tensor:
        members = zip(self.members, self.shares, strict=True)
        outputs = [share * F.normalize(member(x).float(), dim=-1) for member, share in members]
        return sum(outputs[1:], start=outputs[0])
