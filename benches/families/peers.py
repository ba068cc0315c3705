"""What PyTorch takes for the calls that `cargo bench --bench families` times, on the same GPU.

    python3 benches/families/peers.py

Attention is FlashAttention-2 as PyTorch carries it, and cuDNN's; norms are PyTorch's own kernels. Like there, events are
around single calls, L2 is flushed before each, and the median counts.
"""

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench

HIDDEN = 2048
ROWS, WIDTH = 16384, 4096


def median(call):
    return do_bench(call, warmup=20, rep=100, return_mode="median") / 1e3


def attention():
    backends = {"FlashAttention-2": SDPBackend.FLASH_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
    batch, seqlen = 4, 4096
    for head_dim in (64, 128, 256):
        heads = HIDDEN // head_dim
        q, k, v = (
            torch.randn(batch, seqlen, heads, head_dim, device="cuda", dtype=torch.float16).transpose(1, 2)
            for _ in range(3)
        )
        for causal in (False, True):
            flops = (2 if causal else 4) * batch * seqlen * seqlen * heads * head_dim
            for name, backend in backends.items():
                what = f"prefill f16 d{head_dim} {'causal' if causal else 'full'}, {name}"
                try:
                    with sdpa_kernel(backend):
                        time = median(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=causal))
                except RuntimeError as error:
                    print(f"{what}: {str(error).splitlines()[0]}")
                    continue
                print(f"{what:56} {time * 1e6:9.1f} us {flops / time / 1e12:6.0f} TFLOP/s")


def norms():
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        x, residual = (torch.randn(ROWS, WIDTH, device="cuda", dtype=dtype) for _ in range(2))
        weight, bias = (torch.randn(WIDTH, device="cuda", dtype=dtype) for _ in range(2))

        def add_rms_norm():
            residual.add_(x)
            return F.rms_norm(residual, (WIDTH,), weight, 1e-6)

        calls = {
            "rms_norm": (2, lambda: F.rms_norm(x, (WIDTH,), weight, 1e-6)),
            "add_rms_norm": (4, add_rms_norm),
            "layer norm": (2, lambda: F.layer_norm(x, (WIDTH,), weight, bias, 1e-6)),
        }
        for name, (passes, call) in calls.items():
            time = median(call)
            rate = passes * x.numel() * x.element_size() / time / 1e9
            print(f"{name} {str(dtype).removeprefix('torch.'):50} {time * 1e6:9.1f} us {rate:6.0f} GB/s")


print(torch.cuda.get_device_name(), "PyTorch", torch.__version__)
with torch.inference_mode():
    attention()
    norms()
