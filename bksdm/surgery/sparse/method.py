"""How weights are chosen: criterion, granularity, allocation and pattern together."""

from dataclasses import dataclass, field

from bksdm.errors import InputError
from bksdm.surgery.sparse.allocation import Allocation, Uniform
from bksdm.surgery.sparse.budget import Budget, Granularity, Pattern, check_granularity
from bksdm.surgery.sparse.criteria import Criterion, Scoring
from bksdm.surgery.sparse.statistics import Needs


@dataclass(frozen=True, kw_only=True)
class Method:
    """How weights are chosen.

    Attributes:
        name: short, for tables and files.
        criterion: which go.
        granularity: among which the lowest are found: tensor, row or component.
        allocation: how layers share the sparsity.
        pattern: N:M; None for unstructured.
    """

    name: str
    criterion: Criterion
    granularity: Granularity = Granularity.TENSOR
    allocation: Allocation = field(default_factory=Uniform)
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        granularity = check_granularity("granularity", self.granularity)
        object.__setattr__(self, "granularity", granularity)
        uneven = not isinstance(self.allocation, Uniform)
        if uneven and (self.pattern or granularity is Granularity.COMPONENT):
            raise InputError(
                f"criterion {self.name} shares its sparsity out among layers itself; expected"
                " granularity tensor or row, and no pattern"
            )
        if granularity is Granularity.COMPONENT and not isinstance(self.criterion, Scoring):
            raise InputError(
                f"granularity=component: {self.name} moves weights while it chooses; expected"
                " tensor or row"
            )

    @property
    def words(self) -> str:
        """For plans."""
        how = f"pattern {self.pattern}" if self.pattern else f"by {self.granularity}"
        return f"{self.name}, {how}"

    @property
    def needs(self) -> Needs:
        """What it must know of inputs at all."""
        return max(self.criterion.needs, self.allocation.needs)

    def budget(self, sparsity: float) -> Budget:
        """Of a tensor.

        Raises:
            InputError: a pattern has another sparsity.
        """
        if self.pattern is not None and abs(sparsity - self.pattern.sparsity) > 1e-9:
            raise InputError(
                f"sparsity {sparsity:g} with pattern={self.pattern}: expected"
                f" {self.pattern.sparsity:g}, as the pattern says"
            )
        return Budget(sparsity=sparsity, granularity=self.granularity, pattern=self.pattern)
