"""Packaging of lossline, with lower bounds of versions; constraints.txt pins tested versions."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
INSTALLING = runpy.run_path(str(HERE / "lossline" / "installing.py"))

CORE = [
    "flax>=0.12.8",
    "gin-config>=0.5.0",
    "jax>=0.10.2,<0.13",
    "jinja2>=3.1",
    "matplotlib>=3.9",
    "numpy>=2.1",
    "optax>=0.2.8",
    "orbax-checkpoint>=0.12.8",
    "pandas>=2.3",
    "pyarrow>=17",
    "pyyaml>=6.0",
    "safetensors>=0.4",
    "scipy>=1.14",
    "tensorboard>=2.20",
    "tensorstore>=0.1.80",
    "tokenizers>=0.21",
]
# Only `prepare` needs these: they bring TensorFlow along, and nothing else imports it.
DATA = [
    "importlib_resources>=6.0",  # tensorflow-datasets imports it without saying so
    "sentencepiece>=0.2.0",
    "seqio>=0.0.20",
    "tensorflow>=2.21,<2.22",
    "tensorflow-datasets>=4.9.10",
    "tensorflow-text>=2.21,<2.22",
    "tiktoken>=0.9",
]
# fastText as a page classifier, and the detector of languages.
SELECTION = [
    "fasttext-community>=0.11.9",
    "py3langid>=0.4.0",
]
# Text work on a Dask scheduler, and grids as Slurm jobs.
CLUSTER = [
    "distributed>=2026.8",
    "submitit>=1.5.4",
]
GGUF = ["gguf>=0.17"]  # models in the format of llama.cpp
# Small files in Google Cloud Storage; Orbax and TensorStore bring their own clients.
BUCKETS = [
    "gcsfs>=2026.8",
]
DOCS = [
    "furo>=2024.8.6",
    "myst-parser>=4.0",
    "sphinx>=8.1",
]
DEV = [
    *DOCS,  # a test builds the documentation
    *SELECTION,
    *CLUSTER,
    *BUCKETS,
    *GGUF,
    "gcp-storage-emulator>=2026.7",
    "ipykernel>=6.29",
    "mypy>=1.14",
    "nbclient>=0.10",
    "nbformat>=5.10",
    "playwright>=1.49",  # drives Chromium where there is one
    "pytest>=8.3",
    "pytest-xdist>=3.6",
    "ruff>=0.9",
]

setup(
    name=INSTALLING["DISTRIBUTION"],
    version="0.1.0",
    description="Loss-to-loss studies of language models: train, evaluate, fit, attribute.",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    url=INSTALLING["REPOSITORY"] or None,
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["lossline", "lossline.*"]),
    package_data={
        "lossline": ["py.typed"],
        "lossline.options": ["names.json"],
        "lossline.explorer": ["assets/*"],
        "lossline.lines": ["published_errors.csv"],
        "lossline.reporting": ["templates/*"],
        "lossline.tables": ["example.parquet"],
    },
    install_requires=CORE,
    extras_require={
        "buckets": BUCKETS,
        "cluster": CLUSTER,
        "data": DATA,
        "dev": DATA + DEV,
        "docs": DATA + DOCS,  # the pages describe every module, those that import TensorFlow too
        "gguf": GGUF,
        "gpu": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
        "harness": ["lm-eval>=0.4.9"],
        "selection": SELECTION,
        "peers": [
            "lightgbm>=4.5",
            "torch>=2.11",
            "transformers>=5.17",
            "mambapy>=1.2.0",
            "data-selection>=1.0.3",
            "scikit-learn>=1.6",
        ],
    },
)
