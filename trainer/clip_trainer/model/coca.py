"""CoCa: CLIP that also writes captions (arXiv 2205.01917)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from clip_trainer.model.caption_decoder import CaptionDecoder
from clip_trainer.model.clip_model import ClipModel
from clip_trainer.model.clip_output import SpeedUps
from clip_trainer.model.config import ClipConfig
from clip_trainer.model.generation import GenerationOptions, StoppingCriterion, TokenIds, generate
from clip_trainer.model.towers import build_text, build_vision
from clipctl.contract.errors import SpecError


class CoCa(ClipModel):
    """Image tower, text tower, and a decoder that looks from the text's tokens at the image's.

    Args:
        config: shape of the model (with `multimodal`).
        speed_ups: exact shortcuts to use.

    Raises:
        SpecError: a tower does not give its tokens.
    """

    def __init__(self, config: ClipConfig, speed_ups: SpeedUps) -> None:
        nn.Module.__init__(self)
        assert config.multimodal is not None
        if not (config.text.output_tokens and config.vision.output_tokens and config.vision.kind == "vit"):
            raise SpecError(
                "A model with multimodal_cfg needs the tokens of both towers.",
                hint="Set output_tokens: true in vision_cfg and text_cfg; the image tower must be a ViT.",
            )
        self._join(config)
        self.text: Any = build_text(config, speed_ups)
        self.visual = build_vision(config, speed_ups)
        self.text_decoder = CaptionDecoder(config.multimodal, config.text.vocab_size, quick_gelu=config.quick_gelu)
        self.context_length = config.multimodal.context_length
        self.pad_id = 0

    def encode_image(self, image: Tensor, normalize: bool = True) -> Tensor:
        """See `ClipModel.encode_image`; normalised unless told otherwise, as in OpenCLIP."""
        return self._encode_image(image, normalize)[0]

    def encode_text(self, text: Tensor, normalize: bool = True, text_length: int | None = None) -> Tensor:
        """See `ClipModel.encode_text`; normalised unless told otherwise, as in OpenCLIP."""
        return self._encode_text(text, normalize)[0]

    def forward(  # type: ignore[override]
        self,
        image: Tensor | None = None,
        text: Tensor | None = None,
        image_latent: Tensor | None = None,
        image_embs: Tensor | None = None,
        output_labels: bool = True,
        text_length: int | None = None,
    ) -> dict[str, Tensor]:
        """Features of both towers and the scores of every next token.

        Args:
            image: normalised images [n, 3, height, width]; not needed if the next but one two are given.
            text: token ids [n, tokens]; without it only the image is embedded.
            image_latent: image features, if known already.
            image_embs: image tokens, if known already.
            output_labels: leave out the scores after the last token and return what they should predict.
            text_length: no effect, the class token comes last.

        Returns:
            `image_features`, `text_features` [n, embed_dim], `logits` [n, tokens (- 1), vocabulary], `labels`
            [n, tokens - 1] (with `output_labels`), `logit_scale` (exponentiated), `logit_bias` if there is one; without
            text `image_features` and `image_embs`.
        """
        if image_latent is None or image_embs is None:
            assert image is not None, "neither images nor what was made of them are given"
            image_latent, image_embs = self._encode_image(image)
        if text is None:
            return {"image_features": image_latent, "image_embs": image_embs}
        text_latent, token_embs = self._encode_text(text)
        if output_labels:
            token_embs = token_embs[:, :-1]
        output = {
            "image_features": image_latent,
            "text_features": text_latent,
            "logits": self.text_decoder(image_embs, token_embs),
            "logit_scale": self.logit_scale.exp(),
        }
        if output_labels:
            output["labels"] = text[:, 1:]
        if self.logit_bias is not None:
            output["logit_bias"] = self.logit_bias
        return output

    def generate(
        self,
        image: Tensor,
        text: Tensor | None = None,
        seq_len: int = 30,
        max_seq_len: int = 77,
        temperature: float = 1.0,
        generation_type: str = "beam_search",
        top_p: float = 0.1,
        top_k: int = 1,
        pad_token_id: int | None = None,
        eos_token_id: TokenIds | None = None,
        sot_token_id: TokenIds | None = None,
        num_beams: int = 6,
        num_beam_groups: int = 3,
        min_seq_len: int = 5,
        stopping_criteria: Sequence[StoppingCriterion] | None = None,
        repetition_penalty: float = 1.0,
        fixed_output_length: bool = False,
        diversity_penalty: float = 0.0,
        log_probabilities: bool = False,
    ) -> Tensor:
        """Token ids of captions: see `GenerationOptions` for the arguments, `generation.generate` for the result."""
        options = GenerationOptions(
            seq_len=seq_len,
            max_seq_len=max_seq_len,
            temperature=temperature,
            generation_type=generation_type,
            top_p=top_p,
            top_k=top_k,
            pad_token_id=pad_token_id,
            eos_token_id=eos_token_id,
            sot_token_id=sot_token_id,
            num_beams=num_beams,
            num_beam_groups=num_beam_groups,
            min_seq_len=min_seq_len,
            stopping_criteria=stopping_criteria,
            repetition_penalty=repetition_penalty,
            fixed_output_length=fixed_output_length,
            diversity_penalty=diversity_penalty,
            log_probabilities=log_probabilities,
        )
        return generate(self, image, text, options)

    def encode_image_tokens(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The normalised image feature [n, embed_dim] and the tokens the decoder looks at [n, tokens, width]."""
        return self._encode_image(image)

    def next_token_scores(self, image_embs: Tensor, text: Tensor) -> Tensor:
        """Scores [n, vocabulary] of the token after `text` [n, length]."""
        _, token_embs = self._encode_text(text)
        last = self.text_decoder.states(image_embs, token_embs)[:, -1]
        scores: Tensor = last @ self.text_decoder.text_projection.to(last.dtype)
        return scores

    def lock_text_tower(self, unlocked_layers: int = 0, freeze_layer_norm: bool = True) -> None:
        """See `ClipModel.lock_text_tower`; the decoder stays trainable."""
        self.text.lock(unlocked_layers, freeze_layer_norm)

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute the blocks of both towers and of the decoder in the backward pass."""
        parts: tuple[Any, ...] = (self.visual, self.text, self.text_decoder)
        for part in parts:
            part.set_grad_checkpointing(enable)

    def no_weight_decay(self) -> set[str]:
        """See `ClipModel.no_weight_decay`."""
        return self._visual_no_weight_decay() | {f"text.{name}" for name in self.text.no_weight_decay()}

    def _text_intermediates(self, text: Tensor, **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = self.text.forward_intermediates(text, **options)
        return found

    def _encode_image(self, image: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        features, tokens = self.visual(image)
        return functional.normalize(features, dim=-1) if normalize else features, tokens

    def _encode_text(self, text: Tensor, normalize: bool = True) -> tuple[Tensor, Tensor]:
        features, tokens = self.text(text)
        return functional.normalize(features, dim=-1) if normalize else features, tokens
