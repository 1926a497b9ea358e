"""The branches that an unpadded, unpacked batch takes on a card, although fake tensors have no values to look at.

transformers (``masking_utils``) asks whether position ids restart, whether every token is real, and whether it is being
traced; a fake tensor counts as tracing, and then a mask is built that a real run does not have. Answering as the real
run would leaves the rest of its code alone: a sliding window shorter than the sequence still builds its mask, a longer
one does not. Not for padded batches or packed sequences, where a real run builds masks as well.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

ANSWERS: dict[str, Any] = {
    "find_packed_sequence_indices": lambda _position_ids: None,
    "is_tracing": lambda _tensor=None: False,
    "fast_all": lambda _tensor: True,
}
"""One sequence a row, no tracing, no padding token. What else a mask function asks of values (``torch.all`` over the
mask of a recurrent layer) reaches the recorder, which answers it."""

FLASH = "flash_attention_2"


@contextmanager
def unpadded_masks() -> Iterator[None]:
    """The mask code of transformers as on a real batch without padding."""
    from transformers import masking_utils  # noqa: PLC0415

    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    real = masks[FLASH]
    with ExitStack() as stack:
        for name, answer in ANSWERS.items():
            if hasattr(masking_utils, name):
                stack.enter_context(patch.object(masking_utils, name, answer))
        masks[FLASH] = lambda **sizes: real(**{**sizes, "attention_mask": None})
        stack.callback(masks.__delitem__, FLASH)
        yield
