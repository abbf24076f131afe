"""Hugging Face folders (config.json, safetensors) in and out, tensor by tensor.

    config, params = read_model("path/to/folder")
    write_model("path/to/new/folder", config, params)

``families.FAMILIES`` says which model types there are and how their tensors are named and laid out.
Only safetensors are read: no pickle is ever loaded, and no code of a folder is ever run.
"""

from lossline.conversion.families import FAMILIES, config_from_hf
from lossline.conversion.folder import read_config, read_model, refuse_existing, write_model

__all__ = [
    "FAMILIES",
    "config_from_hf",
    "read_config",
    "read_model",
    "refuse_existing",
    "write_model",
]
