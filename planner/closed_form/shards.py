"""States and buffers of one rank, by the engine that shares the work among ranks."""

from planner.closed_form.fsdp import fsdp
from planner.closed_form.offload import on_card
from planner.closed_form.parallel import undivided_gradient
from planner.closed_form.profile import Profile
from planner.closed_form.rank import Shards, states
from planner.closed_form.zero import zero
from planner.formulas.sharding import ddp_buckets, divisors
from planner.spec import Scenario


def shard_states(scenario: Scenario, profile: Profile) -> Shards:
    """States divided by the scheme, with its buffers, less what is offloaded."""
    return on_card(scenario, ENGINES[scenario.train.sharding](scenario, profile))


def _none(scenario: Scenario, profile: Profile) -> Shards:
    found = states(scenario, profile, divisors("none", 1))
    return found._replace(gradients=found.gradients + undivided_gradient(scenario))


def _ddp(scenario: Scenario, profile: Profile) -> Shards:
    return _none(scenario, profile)._replace(standing=ddp_buckets(profile.inventory.gradients))


ENGINES = {"none": _none, "ddp": _ddp, "zero1": zero, "zero2": zero, "zero3": zero, "fsdp": fsdp, "hsdp": fsdp}
