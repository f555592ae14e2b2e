import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

import tercet
from recorder import word_cases

TEXTS = (
    *word_cases.TEXTS,
    "Don\u2019t wait for New York... it's (gonna) be $5.00, e.g. 'the cat' -- \"NEW YORK\" & co.",
)


@pytest.mark.parametrize(
    "name", [name for name, case in word_cases.CASES.items() if case.phrases is not None]
)
def test_phrases_embed_as_in_sentence_transformers_with_nltk_itself(name, tmp_path):
    folder = word_cases.write(tmp_path / "model", name)
    found = tercet.load(folder, precision="float32", device="cpu").encode(TEXTS).dense
    theirs = SentenceTransformer(str(folder), device="cpu")
    rows = [theirs.encode([text], batch_size=1, show_progress_bar=False) for text in TEXTS]
    np.testing.assert_allclose(found, np.concatenate(rows), rtol=1e-5, atol=1e-5)
