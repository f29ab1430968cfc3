"""The Triton code of `triton_conv.py`. Shapes are constants of compilation; a program computes a block of pixels."""
# pyright: reportMissingParameterType=false, reportUnknownParameterType=false
# Arguments without an annotation are pointers and numbers of the device, for which Python has no types.

import triton
import triton.language as tl


@triton.jit
def forward(
    x, w, bias, other, y, groups, W0, WI, WC, WR, WO,
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    STRIDE: tl.constexpr, GROUP: tl.constexpr, WIDTH: tl.constexpr, PACKED: tl.constexpr, BIAS: tl.constexpr,
    OTHER: tl.constexpr, RELU: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y[p, :] = relu?(sum over the filter's rows of x[under the row of p] @ w[row] + bias + other[p, :]).

    x [B, H * STRIDE, W * STRIDE, CIN], y [B, H, W, COUT]; GROUP pixels of a line are computed as one of GROUP * COUT
    channels, and `groups` is B * H * W / GROUP. WIDTH, a power of two, is at least as many inputs as lie under a row
    of the filters of a group. A weight lies at W0 + channel in * WI + column * WC + row * WR + channel out * WO;
    weights that are PACKED are [KERNEL, WIDTH, GROUP * COUT] instead.
    """
    LINE: tl.constexpr = W // GROUP
    SPAN: tl.constexpr = (GROUP - 1) * STRIDE + KERNEL
    m = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    k = tl.arange(0, WIDTH)
    co = tl.arange(0, GROUP * COUT)
    column = (m % LINE) * (STRIDE * GROUP) - KERNEL // 2
    line = ((m // LINE) % H) * STRIDE - KERNEL // 2
    image = m // (H * LINE)
    under = column[:, None] + (k // CIN)[None, :]
    inside = (under >= 0) & (under < W * STRIDE) & (k < SPAN * CIN)[None, :] & (m < groups)[:, None]
    start = ((image * (H * STRIDE) + line) * (W * STRIDE) + column) * CIN
    tap = (k // CIN)[:, None] - (co // COUT)[None, :] * STRIDE
    used = (tap >= 0) & (tap < KERNEL)
    place = W0 + (k % CIN)[:, None] * WI + tap * WC + (co % COUT)[None, :] * WO
    acc = tl.zeros((BLOCK, GROUP * COUT), dtype=tl.float32)
    for row in range(KERNEL):
        here = inside & ((line + row >= 0) & (line + row < H * STRIDE))[:, None]
        x_mk = tl.load(x + (start + row * (W * STRIDE * CIN))[:, None] + k[None, :], mask=here, other=0.0)
        if PACKED:
            w_kc = tl.load(w + (row * WIDTH + k)[:, None] * (GROUP * COUT) + co[None, :])
        else:
            w_kc = tl.load(w + place + row * WR, mask=used, other=0.0).to(x.dtype.element_ty)
        acc = tl.dot(x_mk, w_kc, acc)
    place_y = m[:, None] * (GROUP * COUT) + co[None, :]
    written = (m < groups)[:, None]
    if BIAS:
        acc += tl.load(bias + co % COUT)[None, :]
    if OTHER:
        acc += tl.load(other + place_y, mask=written, other=0.0).to(tl.float32)
    if RELU:
        acc = tl.maximum(acc, 0.0)
    tl.store(y + place_y, acc.to(y.dtype.element_ty), mask=written)


@triton.jit
def weight_gradient(
    x, dy, dw, pixels,
    H: tl.constexpr, W: tl.constexpr, CIN: tl.constexpr, COUT: tl.constexpr, KERNEL: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """dw[program, :, row] = sum over a program's pixels of dy[p, :]^T x[under the row of p], for stride 1.

    dw [programs, COUT, KERNEL, KERNEL * CIN], float32; a program has BLOCKS * BLOCK pixels.
    """
    row = tl.program_id(1)
    k = tl.arange(0, WIDTH)
    co = tl.arange(0, COUT)
    acc = tl.zeros((COUT, WIDTH), dtype=tl.float32)
    for block in range(BLOCKS):
        m = (tl.program_id(0) * BLOCKS + block) * BLOCK + tl.arange(0, BLOCK)
        column = m % W - KERNEL // 2
        line = (m // W) % H - KERNEL // 2 + row
        under = column[:, None] + (k // CIN)[None, :]
        inside = (under >= 0) & (under < W) & (k < KERNEL * CIN)[None, :]
        inside = inside & ((line >= 0) & (line < H) & (m < pixels))[:, None]
        start = (((m // (H * W)) * H + line) * W + column) * CIN
        x_mk = tl.load(x + start[:, None] + k[None, :], mask=inside, other=0.0)
        dy_mc = tl.load(dy + m[:, None] * COUT + co[None, :], mask=(m < pixels)[:, None], other=0.0)
        acc = tl.dot(tl.trans(dy_mc), x_mk, acc)
    place = ((tl.program_id(0) * COUT + co[:, None]) * KERNEL + row) * (KERNEL * CIN) + k[None, :]
    tl.store(dw + place, acc, mask=(k < KERNEL * CIN)[None, :] & (co >= 0)[:, None])
