"""Fine-tuning: memory-lean scores with exact gradients, losses, and gradients of batches that memory does not hold."""

__all__: list[str] = []
