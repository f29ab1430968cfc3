"""Promise: noise is the law it claims to be, and a function of (seed, image, phase, sample) alone."""

import hashlib
import math
from dataclasses import replace

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri
from scipy.stats import chisquare, kstest
from tests.small_engine import on_threads

from spacte_core.kernels import grid_noise_kernel
from spacte_core.kernels.compiler import compile_library
from spacte_core.kernels.cpu import grid_noise
from spacte_core.kernels.cpu.grid_noise import GridNoiseKernel
from spacte_workers.noise.gaussian import GaussianNoise
from spacte_workers.noise.grid import GridNoise
from spacte_workers.noise.philox import philox, row_names, stream_words
from spacte_workers.noise.table import MASS_BITS, MAX_SIGMA, noise_table
from spacte_workers.shards import NoiseSource, Phase

SOURCE = NoiseSource("0123456789abcdef0123456789abcdef", 3, 0.25, "grid")
SIGMAS = [0.003, 0.12, 0.25, 0.5, 1.0]


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def true_mass(z, sigma):
    """P(round(255 sigma N(0, 1)) = z) in 60 digits."""
    with mpmath.workdps(60):
        steps = mpmath.mpf(sigma) * 255
        return mpmath.ncdf((z + mpmath.mpf(1) / 2) / steps) - mpmath.ncdf((z - mpmath.mpf(1) / 2) / steps)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_masses_are_those_of_the_rounded_gaussian(sigma):
    table = noise_table(sigma)
    half = table.half_width
    assert sum(table.masses) == 1 << MASS_BITS
    assert table.masses == tuple(reversed(table.masses))
    for z in {0, 1, half // 7, half // 2, half - 1}:
        with mpmath.workdps(60):
            error = abs(mpmath.mpf(table.masses[half + z]) / 2**MASS_BITS - true_mass(z, sigma))
            assert error <= (half + 1 if z == 0 else 0.5001) / mpmath.mpf(2) ** MASS_BITS


@pytest.mark.parametrize("sigma", [0.003, 0.12])
def test_total_variation_is_the_distance_with_the_tail(sigma):
    table = noise_table(sigma)
    with mpmath.workdps(60):
        inside = sum(
            abs(mpmath.mpf(mass) / 2**MASS_BITS - true_mass(z, sigma))
            for z, mass in enumerate(table.masses, -table.half_width)
        )
        beyond = 2 * mpmath.ncdf(-(table.half_width + mpmath.mpf(1) / 2) / (mpmath.mpf(sigma) * 255))
        distance = float((inside + beyond) / 2)
    assert distance <= table.total_variation <= distance * 1.01


@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_error_costs_less_than_a_millionth_of_the_radius(sigma):
    """For 3 x 32 x 32 at n = 100,000, alpha = .001 and every vote for one class, where it weighs most."""
    p_lower = 0.001 ** (1 / 100_000)
    lost = 3_072 * noise_table(sigma).total_variation
    assert 0 < lost < 1e-13
    slope = math.sqrt(2 * math.pi) * math.exp(ndtri(p_lower) ** 2 / 2)  # of the radius in p
    assert lost * slope < 1e-6


@pytest.mark.parametrize("sigma", [0.001, 0.25, 2.0])
def test_columns_give_each_value_its_mass(sigma):
    table = noise_table(sigma)
    found = dict.fromkeys(range(-table.half_width, table.half_width + 1), 0)
    for value in table.value[: table.first_shared].tolist():
        found[value] += 1 << 64
    shared = zip(
        table.value[table.first_shared :].tolist(), table.threshold.tolist(), table.other.tolist(), strict=True
    )
    for value, threshold, other in shared:
        found[value] += threshold
        found[other] += (1 << 64) - threshold
    assert tuple(found.values()) == table.masses


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf, MAX_SIGMA * 1.01])
def test_a_sigma_without_a_table_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma"):
        noise_table(sigma)


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_known_answers(counter, key, expected):
    """The known-answer vectors of Salmon et al.'s Random123 distribution."""
    words = philox(*(torch.tensor([word]) for word in (*counter, *key)))
    assert tuple(int(word) for word in words) == expected


def grid(rows, pixels=192, sigma=0.25):
    return GridNoise(noise_table(sigma), pixels).draw(rows)


def test_golden_bits():
    """Certificates replay only as long as these never change."""
    expected = {
        Phase.SELECTION: "d0a0bfa7266ba7454d57aedbce96a6128cc797f3c37b976af4f09d9fc3f69d22",
        Phase.ESTIMATION: "8dfd4a33140d00989d6bad759438d9e7006183b8dddac1e94a9bb5cfb3d6c788",
        Phase.PREDICTION: "c461b356c88c1c3dba0c951233ef0693e90bf80953ce589144bbf762f60214c4",
    }
    for phase, digest in expected.items():
        z = grid(row_names(SOURCE, phase, 1_000, 1_064))
        assert hashlib.sha256(z.numpy().tobytes()).hexdigest() == digest
    normals = GaussianNoise(192).draw(row_names(replace(SOURCE, noise="float"), Phase.ESTIMATION, 1_000, 1_064))
    golden = [0.3890828490257263, -1.092132806777954, 0.27780014276504517, 1.1302183866500854]
    torch.testing.assert_close(normals[0, :4], torch.tensor(golden), rtol=1e-6, atol=0)


@settings(max_examples=30, deadline=None)
@given(start=st.integers(0, 2**32 - 200), offset=st.integers(0, 40), size=st.integers(1, 20), pixels=st.integers(1, 70))
def test_a_sample_is_the_same_wherever_it_is_drawn(start, offset, size, pixels):
    whole = row_names(SOURCE, Phase.ESTIMATION, start, start + 64)
    part = row_names(SOURCE, Phase.ESTIMATION, start + offset, start + offset + size)
    assert torch.equal(grid(whole, pixels)[offset : offset + size], grid(part, pixels))
    normal = GaussianNoise(pixels)
    assert torch.equal(normal.draw(whole)[offset : offset + size], normal.draw(part))


def test_streams_are_disjoint():
    """No two of phase, image, seed and kind share a key, and their draws do not agree beyond chance."""
    others = [
        (SOURCE, Phase.SELECTION),
        (SOURCE, Phase.PREDICTION),
        (replace(SOURCE, image_index=4), Phase.ESTIMATION),
        (replace(SOURCE, seed="0" * 32), Phase.ESTIMATION),
        (replace(SOURCE, noise="float"), Phase.ESTIMATION),
    ]
    names = [stream_words(SOURCE, Phase.ESTIMATION), *(stream_words(*other) for other in others)]
    assert len(set(names)) == len(names)
    z = grid(row_names(SOURCE, Phase.ESTIMATION, 0, 500)).double().flatten()
    for source, phase in others[:4]:
        other = grid(row_names(source, phase, 0, 500)).double().flatten()
        assert abs(torch.corrcoef(torch.stack([z, other]))[0, 1]) < 5 / len(z) ** 0.5


def test_the_seed_alone_names_the_stream_not_sigma():
    """The same uniforms at two noise levels: sigma is a parameter of the law, not of the stream."""
    assert stream_words(SOURCE, Phase.SELECTION) == stream_words(replace(SOURCE, sigma=1.0), Phase.SELECTION)


@pytest.mark.parametrize("sigma", [0.004, 0.02])
def test_draws_follow_the_masses(sigma):
    """Chi-square over all values, tails pooled, including those that shared columns settle."""
    table = noise_table(sigma)
    z = grid(row_names(SOURCE, Phase.ESTIMATION, 0, 4_000), 500, sigma).numpy().ravel()
    expected = np.array([mass / 2**MASS_BITS for mass in table.masses]) * z.size
    seen = np.bincount(z + table.half_width, minlength=len(expected))
    common = expected > 20
    seen = np.append(seen[common], seen[~common].sum())
    expected = np.append(expected[common], expected[~common].sum())
    assert chisquare(seen, expected).pvalue > 1e-4


@pytest.mark.parametrize("sigma", [0.004, 0.25, 4.0])
def test_noise_in_fixed_shapes_has_the_same_bits(sigma):
    """What a GPU draws; at the largest sigma many pixels fall into shared columns."""
    noise = GridNoise(noise_table(sigma), 75)
    rows = row_names(SOURCE, Phase.ESTIMATION, 3, 203)
    assert torch.equal(noise.draw_in_fixed_shapes(rows), noise.draw(rows))


def test_normals_are_normal():
    rows = row_names(replace(SOURCE, noise="float"), Phase.ESTIMATION, 0, 500)
    z = GaussianNoise(401).draw(rows)
    assert z.dtype == torch.float32
    assert torch.isfinite(z).all()
    assert kstest(z.flatten().numpy(), "norm").pvalue > 1e-4
    pairs = torch.corrcoef(torch.stack([z[:, 0:100].flatten(), z[:, 101:201].flatten()]))
    assert abs(pairs[0, 1]) < 5 / 50_000**0.5


@pytest.fixture
def threads():
    yield from on_threads(torch.get_num_threads())


@pytest.mark.parametrize("pixels", [1, 7, 64, 75, 129, 641, 3_072])
@pytest.mark.parametrize("dtype", [torch.int16, torch.float32, torch.bfloat16, torch.uint8])
@pytest.mark.parametrize("count", [1, 3, None])
def test_the_compiled_kernel_gives_the_same_bits(pixels, dtype, count, threads):
    """On any number of threads, and from a compiler without OpenMP."""
    table = noise_table(0.25)
    arrays = (table.value, table.other, table.threshold, table.first_shared)
    kernel = grid_noise_kernel(*arrays)
    if kernel is None:
        pytest.skip("no C++ compiler is installed")
    if count is None:
        library = compile_library(grid_noise.SOURCE, *grid_noise.OPTIONS)
        assert library is not None
        kernel = GridNoiseKernel(*arrays, library)
    threads(count or 2)
    rows = row_names(SOURCE, Phase.ESTIMATION, 5, 45)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (3, pixels), dtype=torch.int16, generator=generator)
    image_of_row = torch.randint(0, 3, (40,), generator=generator)
    scale = torch.rand(pixels, generator=generator) / 100
    shift = torch.rand(pixels, generator=generator) * 50
    made = torch.empty(40, pixels, dtype=dtype)
    kernel.add_noise(rows, images, image_of_row, scale, shift, made)
    x = grid(rows, pixels) + images[image_of_row]
    if dtype != torch.int16:
        x = x.float() * scale + shift
        x = x.clamp(0, 255).to(dtype) if dtype == torch.uint8 else x.to(dtype)
    assert torch.equal(made, x)
