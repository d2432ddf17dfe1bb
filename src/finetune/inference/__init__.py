"""Using a model: embedding texts, images and pairs, searching and reranking; without training and without Lightning.

    from finetune.inference.load import get_model

    model = get_model("sentence-transformers/all-MiniLM-L6-v2")
    vectors = model.encode(["a text", "another"])           # float32 (2, 384)

Importing this package imports nothing; `load` and `model` import torch.
"""
