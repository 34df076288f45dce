"""What losses that do not compare values must do, one class and file a family; `core.testing.loss` has those of values.

@pytest.mark.parametrize("loss", [Bce(), st.builds(Bce, pos_weight=st.floats(0.1, 10))], ids=repr)
class TestBce(ScoreLossLaws): ...

N items, D features.
"""

from core.testing.loss import LossLaws
from core.testing.losses.family import Drawn, LossFamilyLaws
from core.testing.losses.features import FeatureLossLaws
from core.testing.losses.items import ItemLossLaws
from core.testing.losses.rankings import RankingLossLaws
from core.testing.losses.samples import SampleLossLaws
from core.testing.losses.scores import ScoreLossLaws
from core.testing.losses.views import ViewLossLaws
from core.testing.losses.weights import WeightLossLaws

__all__ = [
    "LAWS",
    "Drawn",
    "FeatureLossLaws",
    "ItemLossLaws",
    "LossFamilyLaws",
    "RankingLossLaws",
    "SampleLossLaws",
    "ScoreLossLaws",
    "ViewLossLaws",
    "WeightLossLaws",
]

LAWS: dict[str, type] = {
    "values": LossLaws,
    "scores": ScoreLossLaws,
    "rankings": RankingLossLaws,
    "views": ViewLossLaws,
    "samples": SampleLossLaws,
    "features": FeatureLossLaws,
    "weights": WeightLossLaws,
}
"""the laws of a loss, by what it reads"""
