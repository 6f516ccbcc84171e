"""What is asked of vLLM's workers, in their processes: vLLM makes this class a base of its worker's."""

from __future__ import annotations

from typing import Any

WORKER_EXTENSION = f"{__name__}:WorkerExtension".replace(":", ".")
"""Its name for vLLM."""


class WorkerExtension:
    """Answers by `collective_rpc`. Names must not meet those of a worker."""

    model_runner: Any

    def tokenwatt_attention_backends(self) -> list[str]:
        """Names of the attention backends that the model's layers were given, each once."""
        groups = [group for kinds in self.model_runner.attn_groups for group in kinds]
        return sorted({group.backend.get_name() for group in groups})
