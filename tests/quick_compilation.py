"""Flags of XLA for programs that are compiled once and run for moments."""

# LLVM optimizes nothing, and fusions are emitted without MLIR, in half the time.
QUICK_COMPILATION = (
    "--xla_backend_optimization_level=0"
    " --xla_backend_extra_options=xla_cpu_disable_new_fusion_emitters"
)
