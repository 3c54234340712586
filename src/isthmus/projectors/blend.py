"""Two projectors of the same features into one space, averaged."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from isthmus.errors import UsageError
from isthmus.projectors.concat import Concat
from isthmus.projectors.projector import Projector


class Blend(Concat):
    """[N, sum(parts)] to [N, width]: unit rows of every member, each times its share, added.

    What `Concat` is where both sides are free, this is where the other side is fixed: the members' cosines to any y are
    averaged by share (up to the length of the sum), and the width stays that of the space.

    Raises `UsageError` as `Concat` does, and for members of different width.
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
