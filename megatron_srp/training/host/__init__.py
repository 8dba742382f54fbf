"""Any program of Megatron: the hooks by which it reads sidecars, and what checks its settings."""
