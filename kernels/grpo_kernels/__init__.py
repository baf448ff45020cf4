"""Kernels of the GRPO update. Each has a plain-torch form that is its specification and its CPU path."""

from grpo_kernels.logprobs import token_logprobs

__all__ = ["token_logprobs"]
