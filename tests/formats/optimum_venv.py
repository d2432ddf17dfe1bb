"""Executed by the Python of another environment, with optimum-onnx: prints embeddings by backend="onnx" as JSON.

python optimum_venv.py FOLDER FILE_NAME < texts.json
"""

import json
import sys

from sentence_transformers import SentenceTransformer

folder, file_name = sys.argv[1:]
model = SentenceTransformer(folder, backend="onnx", device="cpu", model_kwargs={"file_name": file_name})
json.dump(model.encode(json.load(sys.stdin)).tolist(), sys.stdout)
