# The training image: NGC's PyTorch image with this package. It brings PyTorch, CUDA, NCCL, Transformer Engine, Apex,
# flash attention and DALI, built for each other; none of them is replaced.
#
#   make docker
#   docker run --gpus all --ipc=host --ulimit memlock=-1 --ulimit stack=67108864 --user "$(id -u):$(id -g)" \
#       -v "$PWD/out:/home/srp/out" megatron-srp bash -c 'DATA=out/corpus_text_document OUT=out/run /opt/megatron-srp/examples/pretrain_1p7b.sh'
#
# 25.12: Python 3.12, torch 2.10, CUDA 13.1.
# https://docs.nvidia.com/deeplearning/frameworks/pytorch-release-notes/rel-25-12.html
FROM nvcr.io/nvidia/pytorch:25.12-py3

# NGC's own constraints (/etc/pip/constraint.txt, in PIP_CONSTRAINT since 25.03) keep what the image brings; of
# constraints.txt only the pins of what we add apply.
COPY constraints.txt /opt/megatron-srp/constraints.txt
RUN grep -E '^(megatron-core|transformers|gigatoken|sentencepiece|xxhash|zstandard|orjson|msgspec|google-re2)==' \
        /opt/megatron-srp/constraints.txt > /opt/added.txt \
    && pip install --no-cache-dir --constraint /opt/added.txt \
    'megatron-core[training]' gigatoken sentencepiece xxhash zstandard orjson \
    msgspec google-re2

WORKDIR /opt/megatron-srp
COPY . .
# All that setup.cfg wants is there by now, or comes with the image: pip only adds what neither has. Editable: the
# examples take the package from here, and its kernels are compiled in place.
RUN pip install --no-cache-dir --constraint /opt/added.txt --editable . \
    && python -c 'import megatron_srp.corpus._text, megatron_srp.data._tokens, megatron.training' \
    && useradd --create-home --uid 10001 srp \
    && chmod 1777 /home/srp

# Not root; --user makes it the owner of the mounted folder, whatever their number.
USER 10001
WORKDIR /home/srp
ENV OMP_NUM_THREADS=1 HOME=/home/srp USER=srp
CMD ["srp", "check"]
