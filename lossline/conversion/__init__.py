"""Read and write Hugging Face folders (config.json and safetensors), tensor by tensor::

    config, params = read_model("path/to/folder")
    write_model("path/to/new/folder", config, params)

``families.FAMILIES`` lists the model types, with the names and layouts of their tensors. Only
safetensors are read: no pickle is loaded and no code of a folder is run. ``gguf_file.read_gguf``
reads a GGUF file of Llama type. In this package, "ours" means lossline's form of a tensor or
option, and "theirs" means Hugging Face's.
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
