"""Engines that somebody else runs, reached by URL: vLLM and llama-server so far."""

from fabstir.engines.openai.config import ServerProfile, UrlEngineConfig
from fabstir.engines.openai.driver import open_url_engine

__all__ = ["ServerProfile", "UrlEngineConfig", "open_url_engine"]
