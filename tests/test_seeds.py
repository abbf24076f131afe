"""All bits of a seed are used, and invalid seeds are refused."""

import jax
import numpy as np
import pytest

from lossline.attribution import AttributionOptions
from lossline.errors import UserError
from lossline.laws.bootstrap import bootstrap
from lossline.laws.forms import ShiftedPowerLaw
from lossline.lines.fitting import LineOptions
from lossline.seeds import LARGEST, check_seed, random_key

NO_SEEDS = (-1, -(2**32), 2**63, 2**64 - 1, 2**64, 1.0, "5", True, np.int64(5))
X = np.linspace(2.0, 4.0, 12)


def draw(seed: int) -> list[float]:
    return jax.random.normal(random_key(seed), (4,)).tolist()


@pytest.mark.parametrize("seed", [0, 1, 5, 2**31 - 1, 2**31, 2**32 - 1])
def test_keys_of_32_bit_seeds_equal_those_of_jax(seed):
    key = jax.random.key(seed)
    assert random_key(seed).dtype == key.dtype
    np.testing.assert_array_equal(jax.random.key_data(random_key(seed)), jax.random.key_data(key))
    assert draw(seed) == jax.random.normal(key, (4,)).tolist()


@pytest.mark.parametrize("seed", [2**32, 2**32 + 5, 2**53 + 1, LARGEST])
def test_keys_of_longer_seeds_equal_those_of_jax_with_64_bit_types(seed):
    with jax.enable_x64(True):
        wanted = np.asarray(jax.random.key_data(jax.random.key(seed)))
    np.testing.assert_array_equal(jax.random.key_data(random_key(seed)), wanted)


def test_every_bit_of_a_seed_changes_the_key():
    seeds = [5, *(5 ^ (1 << bit) for bit in range(63))]
    assert len({tuple(draw(seed)) for seed in seeds}) == 64


@pytest.mark.parametrize("seed", NO_SEEDS)
@pytest.mark.parametrize(
    ("name", "use"),
    [
        ("a.seed", lambda seed: check_seed(seed, "a.seed")),
        ("lines.seed", lambda seed: LineOptions(seed=seed)),
        ("attribution.seed", lambda seed: AttributionOptions(seed=seed)),
        ("seed", lambda seed: bootstrap(ShiftedPowerLaw(), {"x": X}, X, resamples=2, seed=seed)),
    ],
)
def test_invalid_seeds_are_refused(name, use, seed):
    with pytest.raises(UserError) as stop:
        use(seed)
    said = f"{name} = {seed!r}: must be a whole number from 0 to 2^63 - 1 (9223372036854775807)"
    assert str(stop.value) == said


@pytest.mark.parametrize("seed", [0, 2**32, LARGEST])
def test_fits_check_their_seeds(seed):
    assert LineOptions(seed=seed).seed == AttributionOptions(seed=seed).seed == seed
