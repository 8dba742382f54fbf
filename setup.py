"""The one part of packaging that setup.cfg cannot express: the compiled kernels of the data plane."""

from setuptools import Extension, setup

setup(ext_modules=[Extension("megatron_srp._kernels", ["megatron_srp/_kernels.c"], extra_compile_args=["-O3"])])
