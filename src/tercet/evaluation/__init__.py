"""How good vectors are: retrieval, similarity and reranking on judged data, and what a precision costs."""
