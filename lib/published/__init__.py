"""What did the famous ones look like? The models of three papers, put together from the parts of this library.

Names, in reading order: `transformer`, `transformer_base`, `transformer_big`; `Bert`, `bert`, `bert_base`,
`MaskedLanguageModel`, `load_bert`; `gpt2`, `gpt2_small`, `load_gpt2`. Two files: `models` (what they are made of) and
`weights` (loading them).

Weights come as a state dict of Hugging Face's `transformers`, which this package does not need itself:

    model = bert_base()
    load_bert(model, transformers.BertModel.from_pretrained("bert-base-uncased").state_dict())
    model.eval()

To fill in what is masked, with the same encoder:

    model = MaskedLanguageModel(bert_base().encoder)
    load_bert(model, transformers.BertForMaskedLM.from_pretrained("bert-base-uncased").state_dict())

To count only, make a model under `torch.device("meta")`; `model.to_empty(device="cpu")` gives it memory later.
"""

from __future__ import annotations

from .models import (
    Bert,
    MaskedLanguageModel,
    bert,
    bert_base,
    gpt2,
    gpt2_small,
    transformer,
    transformer_base,
    transformer_big,
)
from .weights import load_bert, load_gpt2

__all__ = [
    "Bert",
    "MaskedLanguageModel",
    "bert",
    "bert_base",
    "gpt2",
    "gpt2_small",
    "load_bert",
    "load_gpt2",
    "transformer",
    "transformer_base",
    "transformer_big",
]
