"""Key-value stores: growing, and block memory with retrieval (ReKV)."""

from stc_lab.language.kv.base import DecoderShape, KVStore, Step
from stc_lab.language.kv.growing import GrowingStore
from stc_lab.language.kv.rekv import ReKVMemory
from stc_lab.language.kv.settings import ReKVSettings

__all__ = ["DecoderShape", "GrowingStore", "KVStore", "ReKVMemory", "ReKVSettings", "Step"]
