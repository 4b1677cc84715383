"""clip_trainer: elastic, exactly-once CLIP training. Importing it is cheap; its parts import torch when needed."""
