"""One rank under FSDP: its shards, and the layers and gradients that it holds whole for a while."""

from planner.closed_form.profile import Profile
from planner.closed_form.rank import COMPUTE_BYTES, Shards, divisible, states
from planner.formulas.sharding import divisors, fsdp_gathered
from planner.spec import Scenario


def fsdp(scenario: Scenario, profile: Profile) -> Shards:
    """FSDP of the version that the stack uses, over the ranks of the layout that shard."""
    divided = divisors(scenario.train.sharding, scenario.layout.shard)
    buffers = _version_1 if scenario.stack.fsdp_version == 1 else _version_2
    return buffers(scenario, profile, states(scenario, profile, divided))


def _version_1(scenario: Scenario, profile: Profile, shards: Shards) -> Shards:
    """Root unit (embedding, final norm, head) gathered from forward to the end of backward, and one layer at a time."""
    model, inventory = scenario.model, profile.inventory
    outer = sum(table.params for table in model.embeddings) + model.hidden_size
    root = COMPUTE_BYTES * (outer + (0 if model.tie_word_embeddings else model.lm_head.params))
    layer = int(profile.largest_block * _gathered_bytes_per_param(scenario))
    whole = 0
    if scenario.train.method == "full":
        whole = COMPUTE_BYTES * (
            model.lm_head.params + max(tensor.numel for tensor in inventory.trained if not tensor.embedding)
        )
    return shards._replace(forward=root + layer, loss=root, backward=root + layer + whole)


def _version_2(scenario: Scenario, profile: Profile, shards: Shards) -> Shards:
    """Gathered layers and head; in backward also the layer's whole gradients and their reduce-scatter input."""
    gathered = int(fsdp_gathered(block=profile.largest_block, outer=0, e=1) * _gathered_bytes_per_param(scenario))
    tail = scenario.model.lm_head.params * profile.head_bytes
    whole = 2 * COMPUTE_BYTES * profile.largest_block if scenario.train.method == "full" else 0
    return shards._replace(forward=gathered, loss=tail + gathered // 2, backward=gathered + tail + whole)


def _gathered_bytes_per_param(scenario: Scenario) -> float:
    """A gathered layer weighs 16 bits a parameter, or 4 in packed form; replicated weights are not gathered."""
    if not scenario.train.quantized:
        return COMPUTE_BYTES
    return 0.5 if divisible(scenario.train) else 0.0
