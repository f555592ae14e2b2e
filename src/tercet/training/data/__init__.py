"""Examples to learn from: files checked line by line, batches in an order that can be taken up again."""

__all__ = ["Example", "Order", "Source", "TrainingBatch", "make_batch", "open_source"]

from tercet.training.data.batch import TrainingBatch, make_batch
from tercet.training.data.example import Example
from tercet.training.data.order import Order
from tercet.training.data.source import Source, open_source
