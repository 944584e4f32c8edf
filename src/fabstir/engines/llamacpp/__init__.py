"""llama.cpp's server as an engine: in a child process, from the xllamacpp wheel or a binary."""

from fabstir.engines.llamacpp.driver import LlamaCppEngine, open_llamacpp
from fabstir.engines.llamacpp.launcher import LlamaCppConfig

__all__ = ["LlamaCppConfig", "LlamaCppEngine", "open_llamacpp"]
