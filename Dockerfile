# NGC's image brings PyTorch, CUDA, Transformer Engine, Apex and DALI; none of them is replaced.
FROM nvcr.io/nvidia/pytorch:25.10-py3

WORKDIR /opt/megatron-srp
COPY . .
# The image's own constraints file keeps pip from replacing its torch.
RUN pip install --no-cache-dir . && useradd --create-home srp

USER srp
WORKDIR /home/srp
