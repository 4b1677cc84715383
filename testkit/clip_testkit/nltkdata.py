"""Data for NLTK's sentence splitter and tagger, in the layout of its downloads, small enough to write in a test."""

from __future__ import annotations

import json
from pathlib import Path

TAGS = {
    **dict.fromkeys(["cat", "dog", "house", "tree", "sky", "photo", "car", "bird", "moon", "sun"], "NN"),
    **dict.fromkeys(["red", "green", "blue", "big", "small", "old", "new", "wide"], "JJ"),
    **dict.fromkeys(["runs", "sees", "sleeps", "is"], "VBZ"),
    **dict.fromkeys(["a", "the", "of", "and", "on", "in"], "DT"),
}
"""Tags (Penn Treebank) of the words the tagger knows; any other word is tagged as the last of its classes."""


def write_nltk_data(folder: Path) -> Path:
    """Write the data; `nltk.data.path` must then hold the folder."""
    splitter = folder / "tokenizers" / "punkt_tab" / "english"
    splitter.mkdir(parents=True)
    for name in ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab"):
        (splitter / name).write_text("")
    name = "averaged_perceptron_tagger_eng"
    tagger = folder / "taggers" / name
    tagger.mkdir(parents=True)
    parts = {"weights": {"bias": {"XX": 1.0}}, "tagdict": TAGS, "classes": [*sorted(set(TAGS.values())), "XX"]}
    for part, content in parts.items():
        (tagger / f"{name}.{part}.json").write_text(json.dumps(content))
    return folder
