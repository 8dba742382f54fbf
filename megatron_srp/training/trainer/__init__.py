"""All that depends on Megatron's trainer and its version; of the other files, only `cpu/backend.py` imports it.

Written for megatron-core 0.19 and 0.20. `tests/integration/test_megatron_api.py` checks every name, signature
and argument used here, and says which one changed.
"""
