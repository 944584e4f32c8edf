"""Conversations and their prompts."""
