"""Fine-tuning: lean scores with exact gradients, losses, and batches larger than memory."""

__all__: list[str] = []
