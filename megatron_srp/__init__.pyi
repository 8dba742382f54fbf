from megatron_srp.annotation import load_guard as load_guard
from megatron_srp.annotation.base import Guard as Guard
from megatron_srp.annotation.base import GuardOptions as GuardOptions
from megatron_srp.annotation.base import GuardResult as GuardResult
from megatron_srp.annotation.store.store import AnnotationStore as AnnotationStore
from megatron_srp.data.builder import ReflectionIndexedDatasetBuilder as ReflectionIndexedDatasetBuilder
from megatron_srp.data.policies.policy import Policy as Policy
from megatron_srp.data.shards.view import ReflectedIndexedDataset as ReflectedIndexedDataset
from megatron_srp.generation.engines.hf.model import GuardedModel as GuardedModel
from megatron_srp.generation.guard.policy import GuardPolicy as GuardPolicy
from megatron_srp.reflection import ReflectionFormat as ReflectionFormat
from megatron_srp.schema import SafetyLabel as SafetyLabel
from megatron_srp.schema import Verdict as Verdict
from megatron_srp.segmentation import segment_text as segment_text
from megatron_srp.tokenization import load_tokenizer as load_tokenizer
from megatron_srp.training.host.register import register as register

__all__: list[str]
__version__: str
