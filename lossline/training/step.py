"""The compiled training step: one ``jax.jit``, with its state placed on the mesh and donated.

The state is a dictionary {"params", "optimizer"}; the step number stays on the host. For parameters
stored in bfloat16, the optimizer state contains float32 copies. Learning rate, weight decay and
seed are arguments, so one compilation serves all runs of the same shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import AbstractMesh, Mesh

from lossline import models
from lossline.objectives.plain import BatchArrays, PlainLoss
from lossline.objectives.selective import SelectiveLoss
from lossline.sharding import (
    Rings,
    Rules,
    batch_sharding,
    chosen_rings,
    parameter_shardings,
    replicated,
    ring_options,
)
from lossline.training import optimizer as optimizers

State = dict[str, Any]
NORMS = ("gradient_norm", "parameter_norm")


@dataclass(frozen=True, kw_only=True)
class Trainer:
    """A model, an objective and an optimizer on a mesh.

    Attributes:
        model: model config (``lossline.models``).
        objective: objective that is minimized.
        optimizer: options of the optimizer.
        mesh: devices.
        rules: logical axis -> mesh axis.
        microbatches: number of parts of the batch that the step computes one after the other. Their
            gradients are added in float32, which equals the gradient of the whole batch up to
            rounding. If the mesh has only ``data``, gradients are reduced over devices once per
            step, otherwise once per microbatch.
        rings: whether the compiler of a TPU may turn products of gathered arrays into rings.
    """

    model: Any
    objective: PlainLoss | SelectiveLoss
    optimizer: optimizers.Optimizer
    mesh: Mesh
    rules: Rules
    microbatches: int = 1
    rings: Rings = Rings.AUTO

    @property
    def chosen_rings(self) -> str | None:
        """What decides about rings: "on", "off", "LIBTPU_INIT_ARGS"; None without a TPU."""
        return chosen_rings(self.rings, self._platform)

    @property
    def _platform(self) -> str:
        return str(self.mesh.devices.flat[0].platform)

    @cached_property
    def _abstract(self) -> tuple[nnx.GraphDef, nnx.State]:
        return models.abstract_state(self.model)

    @cached_property
    def logical_axes(self) -> Any:
        """Tuples of logical axis names, in the structure of the parameters."""
        return nnx.to_pure_dict(models.logical_axes(self._abstract[1]))

    @cached_property
    def shapes(self) -> State:
        """``ShapeDtypeStruct`` of every leaf of the state."""
        params = nnx.to_pure_dict(self._abstract[1])
        params = jax.tree.map(lambda p: jax.ShapeDtypeStruct(p.shape, p.dtype), params)
        return {"params": params, "optimizer": jax.eval_shape(self._fresh_optimizer, params)}

    @cached_property
    def shardings(self) -> State:
        """``NamedSharding`` of every leaf of the state; moments are placed like their parameter.

        Raises:
            UserError: the mesh does not fit the model.
        """
        params = parameter_shardings(
            self.shapes["params"], self.logical_axes, self.mesh, self.rules
        )
        optimizer = self.shapes["optimizer"]
        moments = optax.tree_map_params(
            self._transform,
            lambda _, sharding: sharding,
            optimizer.moments if self._has_masters else optimizer,
            params,
            transform_non_params=lambda _: replicated(self.mesh),
        )
        masters = optimizers.Masters(moments, params) if self._has_masters else moments
        return {"params": params, "optimizer": masters}

    @cached_property
    def abstract_state(self) -> State:
        """Shapes with shardings, the target when a checkpoint is restored."""
        return jax.tree.map(
            lambda shape, sharding: jax.ShapeDtypeStruct(
                shape.shape, shape.dtype, sharding=sharding
            ),
            self.shapes,
            self.shardings,
        )

    @cached_property
    def _transform(self) -> optax.GradientTransformation:
        return self.optimizer.direction()

    @cached_property
    def _mask(self) -> Any:
        return optimizers.decay_mask(self.logical_axes)

    @cached_property
    def _has_masters(self) -> bool:
        """Whether the optimizer state contains float32 copies of the parameters."""
        return any(leaf.dtype != jnp.float32 for leaf in jax.tree.leaves(self._abstract[1]))

    def _fresh_optimizer(self, params: Any) -> Any:
        wide = optimizers.widened(params)
        moments = self._transform.init(wide)
        return optimizers.Masters(moments, wide) if self._has_masters else moments

    def init(self, key: jax.Array) -> State:
        """Return a fresh state; every leaf is created on its devices.

        The numbers depend only on ``key``, not on the mesh.
        """
        with jax.set_mesh(self.mesh):
            return self._make_state(key)

    def init_from(self, params: Any) -> State:
        """Return the state of given parameters with a fresh optimizer.

        Args:
            params: placed as in ``shardings``. They are cast to the model's parameter type, and
                donated.
        """

        def make(params: Any) -> State:
            params = jax.tree.map(lambda p, s: p.astype(s.dtype), params, self.shapes["params"])
            return {"params": params, "optimizer": self._fresh_optimizer(params)}

        with jax.set_mesh(self.mesh):
            return jax.jit(make, donate_argnums=0, out_shardings=self.shardings)(params)

    @cached_property
    def _make_state(self) -> Callable[[jax.Array], State]:
        """The compiled function from a key to a fresh state."""

        def make(key: jax.Array) -> State:
            params = nnx.to_pure_dict(nnx.state(models.build(self.model, key=key)))
            return {"params": params, "optimizer": self._fresh_optimizer(params)}

        return jax.jit(
            make, out_shardings=self.shardings, compiler_options=self._init_compiler_options()
        )

    def _init_compiler_options(self) -> dict[str, int] | None:
        """Return options that reduce compile time of the initialization on CPUs.

        XLA's CPU backend would take longer to optimize the random-number code than to run it.
        """
        return {"xla_backend_optimization_level": 1} if self._platform == "cpu" else None

    def merge(self, params: Any) -> nnx.Module:
        """Return the module with ``params``; cheap, for use inside a traced function."""
        graph, abstract = self._abstract
        # A copy, because replace_by_pure_dict changes its argument.
        state = jax.tree.map(lambda leaf: leaf, abstract)
        nnx.replace_by_pure_dict(state, params)
        return nnx.merge(graph, state)

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names of the metrics of a step: "loss", the norms, then further ones of the objective.

        The first three are finite if the new state is finite.
        """
        loss, *more = self.objective.metric_names
        return (loss, *NORMS, *more)

    def gradients(self, params: Any, batch: BatchArrays) -> tuple[Any, jax.Array]:
        """Return (gradients, metrics of the objective) of the whole batch; traced in ``step``."""
        if self.microbatches > 1 and self.objective.ranks_whole_batch:
            assert isinstance(self.objective, SelectiveLoss)
            chosen, sums = self.objective.choose(batch, self._nats(params, batch))
            # The total depends on every sum, so that all devices exchange the sums before the first
            # gradient. In a CPU program from the compilation cache, XLA keeps no order between
            # independent collectives, and devices then wait for each other forever.
            trained = jnp.maximum(self.objective.selected(sums), 1)
            total = jnp.where(jnp.isfinite(jnp.sum(sums)), trained, jnp.nan)
            gradients, _ = self._summed(params, {**batch, "selected": chosen}, total)
            return gradients, self.objective.metrics(sums)
        total = self.objective.total(batch, self._split)
        sum_up = self._differentiated if self.microbatches == 1 else self._summed
        gradients, sums = sum_up(params, batch, total)
        return gradients, self.objective.metrics(sums)

    def _differentiated(
        self, params: Any, batch: BatchArrays, total: jax.Array, over: str | None = None
    ) -> tuple[Any, jax.Array]:
        def loss(params: Any) -> tuple[jax.Array, jax.Array]:
            return self.objective(self.merge(params), batch, total, over=over)

        return jax.grad(loss, has_aux=True)(params)

    def _summed(self, params: Any, batch: BatchArrays, total: jax.Array) -> tuple[Any, jax.Array]:
        """Return the sum of ``_differentiated`` over all microbatches."""
        if not self._rows_stay:
            return self._accumulated(params, batch, total)

        # Each device sums the gradients of its own rows over all microbatches, so one all-reduce
        # per step suffices. With plain jit, XLA would reduce once per microbatch.
        def of_own_rows(params: Any, batch: BatchArrays, total: jax.Array) -> Any:
            with jax.sharding.use_abstract_mesh(AbstractMesh((), ())):
                return jax.lax.psum(self._accumulated(params, batch, total, over="data"), "data")

        rows, whole = batch_sharding(self.mesh).spec, replicated(self.mesh).spec
        return jax.shard_map(
            of_own_rows,
            mesh=self.mesh,
            in_specs=(whole, rows, whole),
            out_specs=whole,
            check_vma=False,
        )(params, batch, total)

    @property
    def _rows_stay(self) -> bool:
        """Whether every device holds all parameters and can work on its own rows alone."""
        return 1 < self.mesh.size == self.mesh.shape["data"]

    def _accumulated(
        self, params: Any, batch: BatchArrays, total: jax.Array, over: str | None = None
    ) -> tuple[Any, jax.Array]:
        """Return the same as ``_differentiated``, computed one microbatch at a time."""

        def accumulate(carry: tuple[Any, jax.Array], microbatch: BatchArrays) -> tuple[Any, None]:
            gradients, sums = self._differentiated(params, microbatch, total, over)
            # In bfloat16 a sum of many microbatches would lose its small terms.
            wide = jax.tree.map(lambda total, g: total + g.astype(jnp.float32), carry[0], gradients)
            return (wide, carry[1] + sums), None

        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        parts = {name: self._split(array) for name, array in batch.items()}
        no_sums = jnp.zeros(self.objective.num_sums, jnp.float32)
        return jax.lax.scan(accumulate, (zeros, no_sums), parts)[0]

    def _nats(self, params: Any, batch: BatchArrays) -> jax.Array:
        """Return the nats of every target, float32 [B, L], one microbatch at a time."""
        assert isinstance(self.objective, SelectiveLoss)
        objective = self.objective

        def measure(_: None, microbatch: BatchArrays) -> tuple[None, jax.Array]:
            return None, objective.nats(self.merge(params), microbatch)

        parts = {name: self._split(array) for name, array in batch.items()}
        nats = jax.lax.scan(measure, None, parts)[1]
        return nats.swapaxes(0, 1).reshape(batch["targets"].shape)  # the inverse of _split

    def _split(self, array: jax.Array) -> jax.Array:
        """Reshape [B, L] to [microbatches, B/microbatches, L]; every row stays on its device."""
        if self.microbatches == 1:
            return array[None]
        rows = array.shape[0] // self.microbatches
        split = array.reshape(rows, self.microbatches, *array.shape[1:]).swapaxes(0, 1)
        if jax.sharding.get_abstract_mesh().empty:
            return split
        sharding = batch_sharding(self.mesh, microbatches=self.microbatches)
        return jax.lax.with_sharding_constraint(split, sharding)

    def compiled(
        self, state: State, batch: Mapping[str, jax.ShapeDtypeStruct], rates: np.ndarray
    ) -> jax.stages.Compiled:
        """Return ``step`` compiled for arguments of these shapes; once per shape.

        On CPUs it is scheduled for memory. By default XLA runs operations as early as it can there,
        which keeps more arrays alive: 1.14 instead of 0.92 GB for a Llama of 11M.
        """
        key = tuple(sorted((name, leaf.shape, str(leaf.dtype)) for name, leaf in batch.items()))
        if key not in self._programs:
            with jax.set_mesh(self.mesh):
                lowered = self.step.lower(state, batch, rates)  # type: ignore[attr-defined]
                self._programs[key] = lowered.compile(self._compile_options())
        return self._programs[key]

    def _compile_options(self) -> dict[str, int | str] | None:
        if self._platform != "cpu":
            return None
        return {"xla_cpu_scheduler_type": "CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED"}

    @cached_property
    def _programs(self) -> dict[Any, jax.stages.Compiled]:
        return {}

    @cached_property
    def step(
        self,
    ) -> Callable[[State, BatchArrays, jax.Array | np.ndarray], tuple[State, jax.Array]]:
        """The compiled step: (state, batch, [learning rate, weight decay]) -> (state, metrics).

        The given state is donated. The metrics are one float32 vector, ``metric_names``.
        ``loss`` and ``gradient_norm`` (before clipping) belong to the parameters before the update,
        ``parameter_norm`` to the parameters after it: if all three are finite, the new state is
        finite too.
        """

        def run(state: State, batch: BatchArrays, rates: jax.Array) -> tuple[State, jax.Array]:
            params, optimizer = state["params"], state["optimizer"]
            gradients, metrics = self.gradients(params, batch)
            # Sharded like the parameters, so that fsdp keeps only its own part of each gradient.
            gradients = jax.lax.with_sharding_constraint(gradients, self.shardings["params"])
            gradients = optimizers.widened(gradients)
            norm = optimizers.global_norm(gradients)
            gradients = optimizers.clip(gradients, norm, self.optimizer.clip_norm)
            moments, wide = optimizer if self._has_masters else (optimizer, params)
            direction, moments = self._transform.update(gradients, moments, wide)
            wide = optimizers.apply(
                wide, direction, lr=rates[0], weight_decay=rates[1], mask=self._mask
            )
            params = jax.tree.map(lambda w, p: w.astype(p.dtype), wide, params)
            optimizer = optimizers.Masters(moments, wide) if self._has_masters else moments
            # One vector, so that the host fetches one array per step.
            norms = jnp.stack([norm, optimizers.global_norm(params)])
            metrics = jnp.concatenate([metrics[:1], norms, metrics[1:]])
            return {"params": params, "optimizer": optimizer}, metrics

        whole = replicated(self.mesh)
        jitted = jax.jit(
            run,
            donate_argnums=0,
            in_shardings=(self.shardings, batch_sharding(self.mesh), whole),
            out_shardings=(self.shardings, whole),
            compiler_options=ring_options(self.rings, self._platform),
        )
        return jitted


def one_step_at_a_time() -> None:
    """Return from a step on a processor only when its results exist.

    A step that begins early takes new buffers before the old ones are freed, and both stay resident
    (``lossline.heap``). It has no effect on accelerators, on several devices of a processor, and
    once JAX has made its devices.
    """
    jax.config.update("jax_cpu_enable_async_dispatch", False)


def host_buffers(program: jax.stages.Compiled, mesh: Mesh) -> int | None:
    """Return the bytes that a program allocates in this process in every call.

    Returns:
        Bytes of all devices of this process; None for accelerators.
    """
    devices = mesh.local_devices
    memory = program.memory_analysis()
    if devices[0].platform != "cpu" or memory is None:
        return None
    results = memory.output_size_in_bytes - memory.alias_size_in_bytes  # donated ones are there
    return int(memory.temp_size_in_bytes + max(results, 0)) * len(devices)
