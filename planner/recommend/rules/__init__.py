"""Every rule, in order of code: the one place that knows them all."""

from planner.errors import UnknownName
from planner.recommend.rules.act import CheckpointingOff, CheckpointingSpare, EagerScores, FullLogits, MathAttention
from planner.recommend.rules.base import Case, Rule, documentation, title
from planner.recommend.rules.fit import (
    ChangedSettings,
    DoesNotFit,
    Interval,
    LongerThanData,
    NothingHelps,
    PagedStates,
    Tight,
)
from planner.recommend.rules.gpu import EstimatedFigures, HalfOverflows, NoBf16, NoCurrentWheels, UnifiedMemory
from planner.recommend.rules.mon_offers import MONEY
from planner.recommend.rules.qlt import (
    BeyondPositions,
    FourBitPenalty,
    FullAffordable,
    FullForLargeData,
    LargeBatch,
    LoraBeforeQlora,
    OnlyFourBit,
)
from planner.recommend.rules.qlt_data import (
    AdapterCapacity,
    BeyondCapacity,
    ContinuedPretraining,
    FewSteps,
    Forgetting,
    ManyEpochs,
    Preferences,
    RankTooLow,
    ReinforcementLearning,
    SmallData,
    Truncation,
)
from planner.recommend.rules.qlt_use import ManyAdapters, MlpLeftOut, NewVocabulary
from planner.recommend.rules.qnt import FusedExperts, KbitUpcasts, NativeLowBits, SingleQuant, TouchyFamily
from planner.recommend.rules.shd import (
    PcieGathers,
    QuantStorage,
    ReplicatedQuant,
    ReplicatedWeights,
    WholeAtLoad,
    WideShards,
)
from planner.recommend.rules.shd_several import (
    EngineChoice,
    EnoughCards,
    HostMemory,
    HybridShards,
    LittleFaster,
    Offloaded,
    WideTensor,
)
from planner.recommend.rules.spd import (
    CheckpointingTime,
    Dequantising,
    ExpertLoop,
    FarFromPeak,
    LaunchBound,
    LinkBound,
    NearlyFull,
    OptimizerEveryStep,
    PaddingWaste,
    PagedTraffic,
)
from planner.result import Reason

RULES: tuple[Rule, ...] = (
    FullLogits(),
    EagerScores(),
    CheckpointingOff(),
    CheckpointingSpare(),
    MathAttention(),
    DoesNotFit(),
    Tight(),
    Interval(),
    NothingHelps(),
    PagedStates(),
    ChangedSettings(),
    LongerThanData(),
    NoCurrentWheels(),
    NoBf16(),
    EstimatedFigures(),
    UnifiedMemory(),
    HalfOverflows(),
    *MONEY,
    LoraBeforeQlora(),
    OnlyFourBit(),
    FullAffordable(),
    FullForLargeData(),
    FourBitPenalty(),
    LargeBatch(),
    BeyondPositions(),
    AdapterCapacity(),
    RankTooLow(),
    BeyondCapacity(),
    ContinuedPretraining(),
    ReinforcementLearning(),
    Preferences(),
    Forgetting(),
    SmallData(),
    FewSteps(),
    ManyEpochs(),
    Truncation(),
    ManyAdapters(),
    NewVocabulary(),
    MlpLeftOut(),
    FusedExperts(),
    SingleQuant(),
    KbitUpcasts(),
    TouchyFamily(),
    NativeLowBits(),
    QuantStorage(),
    ReplicatedQuant(),
    PcieGathers(),
    ReplicatedWeights(),
    WideShards(),
    EngineChoice(),
    HybridShards(),
    WideTensor(),
    LittleFaster(),
    HostMemory(),
    Offloaded(),
    EnoughCards(),
    WholeAtLoad(),
    LaunchBound(),
    Dequantising(),
    OptimizerEveryStep(),
    LinkBound(),
    CheckpointingTime(),
    PaddingWaste(),
    NearlyFull(),
    ExpertLoop(),
    FarFromPeak(),
    PagedTraffic(),
)

FAMILIES = {
    "ACT": "saved activations, logits, attention scores",
    "FIT": "the verdict and its interval",
    "GPU": "what the card and its drivers allow",
    "MON": "what the run costs, and what more money or time would buy",
    "QLT": "which method, for which data and task, and what it costs in quality",
    "QNT": "what quantisation reaches",
    "SHD": "what sharding divides and moves, and how many cards are enough",
    "SPD": "where time goes",
}
"""What the first three letters of a code say."""

__all__ = ["FAMILIES", "RULES", "Case", "Reason", "Rule", "documentation", "explain", "find", "title"]


def find(code: str) -> Rule:
    """The rule of this code or slug, in any case; raise ``UnknownName``."""
    wanted = code.strip().lower()
    for rule in RULES:
        if wanted in (rule.code.lower(), rule.slug):
            return rule
    names = [name for rule in RULES for name in (rule.code.lower(), rule.slug)]
    raise UnknownName("rule", code, names, listing="plan rules")


def explain(code: str) -> str:
    """The page of one rule: what it says, why it matters, what helps, on which source.

    >>> print(explain("tight").splitlines()[0])
    FIT002: a step fits by the best estimate, but not by the upper bound.
    """
    return documentation(find(code))
