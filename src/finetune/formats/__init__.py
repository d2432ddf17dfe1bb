"""Trained models in other formats: ONNX, OpenVINO, and safetensors in another precision; each verified."""
