"""Executed by the Python of an environment with optimum: what sentence-transformers computes with exported files.

python optimum_jobs.py < jobs.json

A job has the `model_class` of sentence-transformers, the `arguments` to build it, and a `method` with its `inputs`.
The last line that is printed has the results of all jobs as JSON.
"""

import json
import sys

import sentence_transformers


def run(job):
    """Return embeddings or scores as lists."""
    model = getattr(sentence_transformers, job["model_class"])(**job["arguments"], device="cpu")
    return getattr(model, job["method"])(**job["inputs"]).tolist()


print(json.dumps([run(job) for job in json.load(sys.stdin)]))
