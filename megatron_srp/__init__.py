"""Safety Reflection Pretraining (arXiv 2606.19168) for NVIDIA Megatron-LM.

Nothing is imported here, so that the data tools start without torch.
"""

__version__ = "0.1.0"
