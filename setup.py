"""The one part of packaging that setup.cfg cannot express: the compiled kernels, each in the layer that uses it."""

from setuptools import Extension, setup

KERNELS = {
    "megatron_srp.annotation.fronts._front": "megatron_srp/annotation/fronts/_front.c",
    "megatron_srp.corpus._text": "megatron_srp/corpus/_text.c",
    "megatron_srp.data._tokens": "megatron_srp/data/_tokens.c",
}

setup(
    ext_modules=[
        Extension(name, [source], depends=["megatron_srp/_arrays.h"], extra_compile_args=["-O3"])
        for name, source in KERNELS.items()
    ]
)
